//! Why a token is not accepted.

/// What is wrong with a token. Each has its own code, so that whoever made the token can tell what to mend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// Not three parts of base64url, not JSON, a claim of the wrong type, or an extension that is critical and unknown.
    Malformed,
    TooLong,
    /// No key of this `kid`, or none for the algorithm.
    UnknownKey,
    /// The key is for another algorithm.
    AlgorithmDenied,
    BadSignature,
    Expired,
    ExpMissing,
    NotYetValid,
    AudienceDenied,
    IssuerDenied,
}

impl TokenError {
    pub const ALL: [Self; 10] = [
        Self::Malformed,
        Self::TooLong,
        Self::UnknownKey,
        Self::AlgorithmDenied,
        Self::BadSignature,
        Self::Expired,
        Self::ExpMissing,
        Self::NotYetValid,
        Self::AudienceDenied,
        Self::IssuerDenied,
    ];

    pub fn code(self) -> &'static str {
        match self {
            Self::Malformed => "token_malformed",
            Self::TooLong => "token_too_long",
            Self::UnknownKey => "unknown_key",
            Self::AlgorithmDenied => "algorithm_denied",
            Self::BadSignature => "bad_signature",
            Self::Expired => "token_expired",
            Self::ExpMissing => "token_exp_missing",
            Self::NotYetValid => "token_not_yet_valid",
            Self::AudienceDenied => "audience_denied",
            Self::IssuerDenied => "issuer_denied",
        }
    }

    /// Also the reason of a close frame, so short.
    pub fn message(self) -> &'static str {
        match self {
            Self::Malformed => {
                "This is no token: send a signed JSON Web Token whose claims are of the right types."
            }
            Self::TooLong => {
                "A token has 8192 bytes at most. Put fewer channels into it, for example by prefix*."
            }
            Self::UnknownKey => {
                "No key here goes with the kid and alg of the token (settings token_key, jwks)."
            }
            Self::AlgorithmDenied => {
                "The key of this kid is for another algorithm than the token's alg."
            }
            Self::BadSignature => "The token is not signed with the key that it names.",
            Self::Expired => "The token has expired. Bring a new one.",
            Self::ExpMissing => "A token needs exp (setting token_exp_required).",
            Self::NotYetValid => "The token is not valid yet (nbf).",
            Self::AudienceDenied => {
                "The token is meant for another audience (setting token_audience)."
            }
            Self::IssuerDenied => "The token is from another issuer (setting token_issuer).",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_code_of_its_own_and_a_text_that_fits_a_close_frame() {
        let mut codes: Vec<_> = TokenError::ALL.iter().map(|error| error.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), TokenError::ALL.len());
        for (index, error) in TokenError::ALL.into_iter().enumerate() {
            assert_eq!(error as usize, index);
            // RFC 6455 §5.5: a control frame has 125 bytes, of which two are the code.
            assert!(error.message().len() <= 123, "{}", error.message());
        }
    }
}
