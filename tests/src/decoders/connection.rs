//! What a stranger says before there is a session: offers, candidates, the head of a request.

use std::net::SocketAddr;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use duologue_transport::http::auth::{ApiKey, KeyRing, hash_key};
use duologue_transport::http::origin::Origins;
use duologue_transport::rtc::{Candidate, RtcConfig, RtcError, RtcPeer};

/// An offer as Chromium makes one, for audio and events.
const OFFER: &str = include_str!("../../seeds/sdp_offer/chromium.sdp");

fn rtc() -> RtcConfig {
    RtcConfig { bind: Vec::new(), ..RtcConfig::default() }
}

/// Runs one negotiation and all that it started.
fn on_a_runtime(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(work);
    runtime.shutdown_timeout(Duration::from_millis(100));
}

/// The bytes as an SDP offer: an answer or the offer's fault.
pub fn sdp_offer(bytes: &[u8]) {
    let Ok(offer) = std::str::from_utf8(bytes) else { return };
    on_a_runtime(async {
        match RtcPeer::answer(offer, &rtc()).await {
            Ok((peer, answer)) => {
                assert!(answer.starts_with("v=0"));
                peer.close().await;
            }
            Err(error) => assert!(matches!(error, RtcError::Offer { .. }), "{error}"),
        }
    });
}

/// The lines as candidates that trickle in.
pub fn ice_candidate(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    on_a_runtime(async {
        let (peer, _) = RtcPeer::answer(OFFER, &rtc()).await.expect("a good offer");
        for (index, line) in text.lines().enumerate() {
            let candidate = Candidate {
                candidate: line.to_owned(),
                sdp_mid: Some("0".to_owned()),
                sdp_m_line_index: u16::try_from(index).ok(),
            };
            if let Err(error) = peer.handle().add_candidate(candidate).await {
                assert!(matches!(error, RtcError::Candidate { .. }), "{error}");
            }
        }
        peer.close().await;
    });
}

/// The first line as the target of a request, the others as its header lines: nobody comes in without the key.
pub fn http_head(bytes: &[u8]) {
    const KEY: &str = "a-key-that-nobody-guesses";
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut lines = text.lines();
    let Ok(uri) = lines.next().unwrap_or_default().parse::<Uri>() else { return };
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let (name, value) = (name.parse::<HeaderName>(), HeaderValue::from_str(value.trim()));
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let ring = KeyRing::new(vec![ApiKey { name: "phone".to_owned(), hash: hash_key(KEY) }]);
    let (near, far) = (SocketAddr::from(([127, 0, 0, 1], 9)), SocketAddr::from(([192, 0, 2, 7], 9)));
    let admitted = ring.authorize(&headers, &uri, far);
    // Percent signs may spell the key in the query.
    assert!(admitted.is_err() || text.contains(KEY) || text.contains('%'), "let in without the key");
    assert!(KeyRing::new(Vec::new()).authorize(&headers, &uri, far).is_err(), "without keys nobody from afar");
    drop(KeyRing::new(Vec::new()).authorize(&headers, &uri, near));
    let listed = Origins::new(&["https://app.example.com".to_owned()], false).expect("an origin");
    let allowed = listed.allows(&headers);
    if headers.get("origin").is_some_and(|origin| origin == "null") {
        assert!(!allowed, "a page without an origin");
    }
}
