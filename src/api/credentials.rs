//! What a request shows of who sends it, as the backend is to see it: the header fields that `callback_headers` names.

use crate::api::origin;
use crate::auth::Authenticator;
use crate::auth::credential::{self, Credential};
use crate::config::Config;
use crate::proto::http_request::RequestHead;

/// Header fields to be passed on, by the names that the operator gave them. Bounded, as the head that they are from.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials(Vec<(Box<str>, Box<[u8]>)>);

impl std::fmt::Debug for Credentials {
    /// Says nothing of what is in it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials")
    }
}

impl Credentials {
    /// An API key is not among them, nor is a cookie where any page may have made the browser send it.
    pub fn collect(head: &RequestHead<'_>, config: &Config, auth: &Authenticator) -> Self {
        let is_known = origin::is_known(head.origin, head.host, &config.allowed_origins);
        let shown = credential::find(head, None);
        let is_api_key = matches!(shown, Ok(Some(Credential::Bearer(text))) if auth.find_api_key(text).is_some());
        let mut found = Self::default();
        for name in &config.callback.headers {
            let is = |other: &str| name.eq_ignore_ascii_case(other);
            if (is("Cookie") && !is_known) || (is("Authorization") && is_api_key) {
                continue;
            }
            let mut values = head.lines.values(name);
            let Some(first) = values.next() else {
                continue;
            };
            let mut value = first.to_vec();
            // RFC 9110 §5.3: several lines of one name are a list.
            for next in values {
                value.extend_from_slice(b", ");
                value.extend_from_slice(next);
            }
            found.0.push((name.as_str().into(), value.into()));
        }
        if let Ok(Some(Credential::Query(token))) = shown {
            found.set_token(&token, config);
        }
        found
    }

    /// A token that came otherwise goes on as `Authorization`, if that does; what cannot stand in a header field is
    /// nobody's token.
    pub fn set_token(&mut self, token: &str, config: &Config) {
        let is_it = |name: &str| name.eq_ignore_ascii_case("authorization");
        let mut names = config.callback.headers.iter();
        if let Some(name) = names.find(|name| is_it(name))
            && token.bytes().all(|byte| byte.is_ascii_graphic())
        {
            self.0.retain(|(name, _)| !is_it(name));
            let value = format!("Bearer {token}").into_bytes();
            self.0.push((name.as_str().into(), value.into()));
        }
    }

    /// Names and values.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    #[cfg(test)]
    pub(crate) fn of(fields: &[(&str, &str)]) -> Self {
        let fields = fields.iter();
        Self(
            fields
                .map(|&(name, value)| (name.into(), value.as_bytes().into()))
                .collect(),
        )
    }
}
