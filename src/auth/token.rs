//! A token's text → [`Grant`] (RFC 7519), or what is wrong with it.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::auth::error::TokenError;
use crate::auth::grant::{self, Grant};
use crate::auth::key::{KeySet, TokenKey};
use crate::auth::pattern::Patterns;
use crate::config::auth::Auth;

/// Bytes of a token.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Keys that a token without `kid` is tried against: each costs a verification.
const CANDIDATES_MAX: usize = 8;

/// What a token has to say beside its signature.
#[derive(Clone, Debug)]
pub struct Rules {
    audience: Option<Box<str>>,
    issuer: Option<Box<str>>,
    leeway_ms: u64,
    exp_required: bool,
}

/// RFC 7515 §4.1, the part that matters here.
#[derive(Deserialize)]
struct Header<'a> {
    #[serde(borrow)]
    alg: Cow<'a, str>,
    #[serde(borrow)]
    kid: Option<Cow<'a, str>>,
    /// Extensions that must be understood: there are none.
    crit: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Claims<'a> {
    #[serde(borrow)]
    sub: Option<Cow<'a, str>>,
    exp: Option<f64>,
    nbf: Option<f64>,
    #[serde(borrow)]
    iss: Option<Cow<'a, str>>,
    #[serde(borrow)]
    aud: Option<Audience<'a>>,
    #[serde(default, borrow)]
    subscribe: Vec<Cow<'a, str>>,
    #[serde(default, borrow)]
    publish: Vec<Cow<'a, str>>,
    #[serde(default, borrow)]
    channels: Vec<Cow<'a, str>>,
}

/// RFC 7519 §4.1.3: one or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Audience<'a> {
    #[serde(borrow)]
    One(Cow<'a, str>),
    #[serde(borrow)]
    Several(Vec<Cow<'a, str>>),
}

impl Rules {
    /// For how long behind its end a token is good.
    pub fn leeway_ms(&self) -> u64 {
        self.leeway_ms
    }

    pub fn new(auth: &Auth) -> Self {
        Self {
            audience: auth.token_audience.as_deref().map(Into::into),
            issuer: auth.token_issuer.as_deref().map(Into::into),
            leeway_ms: auth.token_leeway_ms,
            exp_required: auth.token_exp_required,
        }
    }

    /// RFC 7519 §4.1.4: on or after `exp` the token is over; §4.1.5: on `nbf` it is valid.
    pub fn check_times(&self, grant: &Grant, unix_ms: u64) -> Result<(), TokenError> {
        let is_over = |expires_ms: u64| unix_ms >= expires_ms.saturating_add(self.leeway_ms);
        if grant.expires_unix_ms.is_some_and(is_over) {
            return Err(TokenError::Expired);
        }
        if unix_ms.saturating_add(self.leeway_ms) < grant.starts_unix_ms {
            return Err(TokenError::NotYetValid);
        }
        Ok(())
    }

    fn check_claims(&self, claims: &Claims<'_>) -> Result<(), TokenError> {
        if let Some(wanted) = &self.audience {
            let is_named = match &claims.aud {
                None => false,
                Some(Audience::One(audience)) => **audience == **wanted,
                Some(Audience::Several(all)) => all.iter().any(|audience| **audience == **wanted),
            };
            if !is_named {
                return Err(TokenError::AudienceDenied);
            }
        }
        if let Some(wanted) = &self.issuer
            && claims.iss.as_deref() != Some(wanted)
        {
            return Err(TokenError::IssuerDenied);
        }
        if self.exp_required && claims.exp.is_none() {
            return Err(TokenError::ExpMissing);
        }
        Ok(())
    }
}

/// Verifies the signature, then what the token says. Nothing of an unsigned token is told apart: a wrong signature
/// comes before a wrong claim.
pub fn verify(
    token: &str,
    keys: &KeySet,
    rules: &Rules,
    unix_ms: u64,
) -> Result<Grant, TokenError> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(TokenError::TooLong);
    }
    let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
    let (header, claims) = message.split_once('.').ok_or(TokenError::Malformed)?;
    let header_json = decode(header)?;
    let header: Header<'_> = parse(&header_json)?;
    if header.crit.is_some() {
        return Err(TokenError::Malformed);
    }
    let claims_json = decode(claims)?;
    decode(signature)?;
    let candidates = candidates(&header, keys)?;
    if !candidates
        .iter()
        .any(|key| key.verifies(message.as_bytes(), signature))
    {
        return Err(TokenError::BadSignature);
    }
    let claims: Claims<'_> = parse(&claims_json)?;
    rules.check_claims(&claims)?;
    let grant = grant(&claims)?;
    rules.check_times(&grant, unix_ms)?;
    Ok(grant)
}

/// The keys that may have signed it.
fn candidates<'k>(header: &Header<'_>, keys: &'k KeySet) -> Result<Vec<&'k TokenKey>, TokenError> {
    let is_named = |key: &&TokenKey| match &header.kid {
        Some(kid) => key.kid.as_deref() == Some(&**kid),
        None => true,
    };
    let mut named = keys.iter().filter(is_named).peekable();
    if header.kid.is_some() && named.peek().is_none() {
        return Err(TokenError::UnknownKey);
    }
    let found: Vec<_> = named
        .filter(|key| key.algorithm.word() == header.alg)
        .take(CANDIDATES_MAX + 1)
        .collect();
    match found.len() {
        0 if header.kid.is_some() => Err(TokenError::AlgorithmDenied),
        0 => Err(TokenError::UnknownKey),
        // So many keys want to be told apart by their names.
        n if n > CANDIDATES_MAX => Err(TokenError::UnknownKey),
        _ => Ok(found),
    }
}

/// RFC 7515 §2: base64url without padding, and no other text for the same bytes.
fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| TokenError::Malformed)
}

fn parse<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, TokenError> {
    // serde takes a list of the values for an object too.
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(TokenError::Malformed);
    }
    serde_json::from_slice(json).map_err(|_| TokenError::Malformed)
}

fn grant(claims: &Claims<'_>) -> Result<Grant, TokenError> {
    let patterns = |list: &[Cow<'_, str>]| Patterns::new(list.iter().map(|it| &**it));
    let channels = grant::parse_channels(claims.channels.iter().map(|name| &**name));
    Ok(Grant {
        user: claims.sub.as_deref().map(Into::into),
        expires_unix_ms: claims.exp.map(date_ms).transpose()?,
        starts_unix_ms: claims.nbf.map(date_ms).transpose()?.unwrap_or(0),
        subscribe: patterns(&claims.subscribe),
        publish: patterns(&claims.publish),
        channels: channels.ok_or(TokenError::Malformed)?,
        is_anonymous: false,
    })
}

/// RFC 7519 §2, NumericDate: seconds since 1970, and fractions of such.
fn date_ms(seconds: f64) -> Result<u64, TokenError> {
    if !seconds.is_finite() || seconds < 0.0 {
        return Err(TokenError::Malformed);
    }
    // What is beyond 64 bits is as good as the end of time.
    Ok((seconds * 1000.0) as u64)
}

#[cfg(test)]
mod tests;
