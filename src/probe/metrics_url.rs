//! The URL of a daemon's metrics.

use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::Uri;
use hyper::header::HeaderValue;

/// The URL of a daemon's metrics. User and password are apart from it, so that no text shows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsUrl {
    /// The URL without user and password.
    url: Uri,
    /// Value of the `Authorization` header, which `Debug` does not show.
    authorization: Option<HeaderValue>,
}

impl MetricsUrl {
    /// Returns the URL without user and password.
    pub(super) fn url(&self) -> &Uri {
        &self.url
    }

    /// Returns the header for user and password (basic authentication, RFC 7617).
    pub(super) fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }
}

impl FromStr for MetricsUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        const EXPECTED: &str = "expected a plain HTTP URL, such as http://localhost:9862/metrics";
        let (scheme, rest) = text.split_once("://").ok_or(EXPECTED)?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user).filter(|user| !user.is_empty()), host),
            None => (None, authority),
        };
        let url = format!("{scheme}://{host}{path}").parse::<Uri>().ok();
        let url = url
            .filter(|url| url.scheme_str() == Some("http"))
            .filter(|url| url.host().is_some_and(|host| !host.is_empty()))
            .filter(|url| url.port_u16().is_some() || url.host() == Some(host))
            .ok_or(EXPECTED)?;
        Ok(Self {
            url,
            authorization: user.map(basic),
        })
    }
}

/// Returns the header for `USER:PASSWORD` or `USER`, percent-encoded.
fn basic(user: &str) -> HeaderValue {
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    let pair = [
        percent_decoded(user),
        b":".to_vec(),
        percent_decoded(password),
    ];
    let text = format!("Basic {}", STANDARD.encode(pair.concat()));
    // Base64 has no character that a header may not have.
    let mut value = HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

/// Replaces each `%` and two hexadecimal digits by their byte (RFC 3986, section 2.1).
pub(super) fn percent_decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|_| *first == b'%');
        let byte = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .filter(|digits| !digits.starts_with('+'))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_url_accepts_only_plain_http() {
        for good in ["http://localhost:9862/metrics", "http://[::1]/", "http://h"] {
            assert!(good.parse::<MetricsUrl>().is_ok(), "{good}");
        }
        for wrong in [
            "https://h/metrics",
            "h:9862/metrics",
            "/metrics",
            "http://",
            "http://u:p@",
            "http://h:port",
            "http://h:",
            "",
        ] {
            assert!(wrong.parse::<MetricsUrl>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn user_and_password_become_a_header_that_no_text_shows() {
        // `Basic` and the Base64 of the pair after it.
        for (text, url, header) in [
            ("http://h:1/m", "http://h:1/m", None),
            ("http://@h", "http://h/", None),
            ("http://u:p@h:1/m", "http://h:1/m", Some("Basic dTpw")),
            ("http://u@h", "http://h/", Some("Basic dTo=")),
            (
                "http://u:p%40%3a%2Fx@[::1]:1",
                "http://[::1]:1/",
                Some("Basic dTpwQDoveA=="),
            ),
            (
                "http://u:p:q%@h/a@b",
                "http://h/a@b",
                Some("Basic dTpwOnEl"),
            ),
        ] {
            let parsed: MetricsUrl = text.parse().unwrap();
            assert_eq!(parsed.url().to_string(), url, "{text}");
            let seen = parsed.authorization().map(|value| value.to_str().unwrap());
            assert_eq!(seen, header, "{text}");
            assert!(!format!("{parsed:?}").contains("dTpw"), "{parsed:?}");
        }
    }
}
