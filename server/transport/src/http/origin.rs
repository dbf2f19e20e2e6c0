//! From which web pages the server may be used. Browsers send cross-site WebSockets without asking, so the server has to
//! look at `Origin` itself; for the REST routes it also tells browsers so (CORS).
//!
//! Owns the list. Who the caller is, is [`super::auth`]'s business: an allowed page still needs a key where one is needed.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, Method, Uri, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::auth::{host_name, is_loopback_host};

/// How long a browser may remember the answer to its preflight request.
const PREFLIGHT_LIFE: Duration = Duration::from_secs(600);
/// Entry of the list that allows every page.
const ANY: &str = "*";

/// An entry of the list that is no origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{entry:?} is no origin: write scheme and host, with the port if it is not the usual one (https://app.example.com), or *"
)]
pub struct OriginError {
    /// As configured.
    pub entry: String,
}

/// The pages that may use this server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Origins {
    rules: Arc<Rules>,
}

#[derive(Debug)]
struct Rules {
    listed: Vec<Origin>,
    any: bool,
    loopback: bool,
}

/// Scheme, host and port of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Origin {
    fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
        let usual = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() || authority.as_str().contains('@') {
            return None;
        }
        let port = match authority.port() {
            Some(port) => port.as_u16(),
            None => usual,
        };
        let host = authority.host().to_ascii_lowercase();
        (!host.is_empty()).then(|| Self { scheme: scheme.to_owned(), host, port })
    }

    /// Whether the page came from the host that this request goes to. A proxy in front may have taken TLS off, so the
    /// scheme is not compared.
    fn is_host(&self, host: &str) -> bool {
        let name = host_name(host);
        let port = host[name.len()..].strip_prefix(':');
        let usual = if self.scheme == "https" { 443 } else { 80 };
        let port = port.map_or(Some(usual), |port| port.parse().ok());
        name.eq_ignore_ascii_case(&self.host) && port == Some(self.port)
    }
}

impl Origins {
    /// The server's own pages, the listed ones, and with `loopback` those of this machine on any port (for a server that
    /// only this machine reaches).
    ///
    /// # Errors
    /// [`OriginError`] for an entry that is no origin.
    pub fn new(listed: &[String], loopback: bool) -> Result<Self, OriginError> {
        let any = listed.iter().any(|entry| entry == ANY);
        let listed = listed
            .iter()
            .filter(|entry| *entry != ANY)
            .map(|entry| Origin::parse(entry).ok_or_else(|| OriginError { entry: entry.clone() }))
            .collect::<Result<_, _>>()?;
        Ok(Self { rules: Arc::new(Rules { listed, any, loopback }) })
    }

    /// Whether a request may come from where it does. One without `Origin` comes from no browser, or from a page of this
    /// server.
    pub fn allows(&self, headers: &HeaderMap) -> bool {
        headers.get_all(header::ORIGIN).iter().all(|origin| self.rules.allow(origin, headers))
    }

    /// Tells browsers what [`Self::allows`] says, for the REST routes.
    pub fn cors(&self) -> CorsLayer {
        let rules = self.rules.clone();
        CorsLayer::new()
            .allow_origin(AllowOrigin::predicate(move |origin, request| rules.allow(origin, &request.headers)))
            .allow_methods([Method::GET, Method::POST, Method::DELETE])
            .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE])
            .expose_headers([header::LOCATION, header::RETRY_AFTER])
            .max_age(PREFLIGHT_LIFE)
    }
}

impl Rules {
    fn allow(&self, origin: &HeaderValue, headers: &HeaderMap) -> bool {
        // `null` (a file, a sandboxed frame) parses as no origin: only `*` allows it.
        let Some(origin) = origin.to_str().ok().and_then(Origin::parse) else { return self.any };
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        self.any
            || host.is_some_and(|host| origin.is_host(host))
            || self.listed.contains(&origin)
            || (self.loopback && is_loopback_host(&origin.host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(listed: &[&str], loopback: bool) -> Origins {
        let listed: Vec<String> = listed.iter().map(|&entry| entry.to_owned()).collect();
        Origins::new(&listed, loopback).unwrap()
    }

    fn from(origin: &str, host: &str) -> HeaderMap {
        [(header::ORIGIN, origin), (header::HOST, host)]
            .map(|(name, value)| (name, value.parse().unwrap()))
            .into_iter()
            .collect()
    }

    #[test]
    fn no_origin_is_no_browser() {
        assert!(origins(&[], false).allows(&HeaderMap::new()));
    }

    #[test]
    fn own_pages_are_allowed_whatever_spells_the_host() {
        let own = origins(&[], false);
        for (origin, host) in [
            ("https://voice.example.com", "voice.example.com"),
            ("https://voice.example.com", "Voice.Example.com:443"),
            ("http://10.0.0.5:8998", "10.0.0.5:8998"),
            ("https://[::1]:8998", "[::1]:8998"),
        ] {
            assert!(own.allows(&from(origin, host)), "{origin} {host}");
        }
        for (origin, host) in [
            ("https://evil.example.com", "voice.example.com"),
            ("https://voice.example.com:444", "voice.example.com"),
            ("https://voice.example.com.evil.org", "voice.example.com"),
            ("null", "voice.example.com"),
            ("http://localhost:3000", "voice.example.com"),
        ] {
            assert!(!own.allows(&from(origin, host)), "{origin} {host}");
        }
    }

    #[test]
    fn listed_pages_are_allowed_by_scheme_host_and_port() {
        let listed = origins(&["https://app.example.com", "http://dev.example.com:3000/"], false);
        assert!(listed.allows(&from("https://app.example.com:443", "voice")));
        assert!(listed.allows(&from("http://dev.example.com:3000", "voice")));
        assert!(!listed.allows(&from("http://app.example.com", "voice")));
        assert!(!listed.allows(&from("http://dev.example.com", "voice")));
        assert!(origins(&["*"], false).allows(&from("null", "voice")));
    }

    #[test]
    fn pages_of_this_machine_are_allowed_where_only_it_comes_in() {
        let local = origins(&[], true);
        assert!(local.allows(&from("http://localhost:5173", "127.0.0.1:8998")));
        assert!(!local.allows(&from("http://localhost.evil.org", "127.0.0.1:8998")));
    }

    #[test]
    fn one_bad_origin_among_several_is_enough() {
        let mut headers = from("https://voice", "voice");
        headers.append(header::ORIGIN, HeaderValue::from_static("https://evil"));
        assert!(!origins(&[], false).allows(&headers));
    }

    #[test]
    fn what_is_no_origin_is_refused_by_name() {
        for entry in
            ["example.com", "ftp://example.com", "https://", "https://a.example/path", "https://u@a.example", ""]
        {
            let error = Origins::new(&[entry.to_owned()], false).unwrap_err();
            assert_eq!(error.entry, entry);
        }
    }
}
