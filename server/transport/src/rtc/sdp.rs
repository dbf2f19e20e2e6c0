//! Session descriptions, as far as they concern us before and after the WebRTC library (RFC 8866, RFC 8839).
//!
//! Owns the limits on what a stranger may offer and the address in what we answer. Must not negotiate.

use std::net::IpAddr;

use super::RtcError;

/// Bytes of an offer; a browser's with audio, video and data has about 8,000.
const OFFER_BYTES: usize = 64 * 1024;
/// Media sections of an offer.
const OFFER_SECTIONS: usize = 8;
/// Candidates in an offer, and of those that trickle in later: each costs checks every 20 ms.
pub(super) const CANDIDATES: usize = 64;
/// Bytes of a candidate that trickles in.
pub(super) const CANDIDATE_BYTES: usize = 1_024;

/// Refuses offers that are too large or hold no Opus audio.
pub(super) fn check_offer(offer: &str) -> Result<(), RtcError> {
    let refuse = |reason: String| Err(RtcError::Offer { reason });
    if offer.len() > OFFER_BYTES {
        return refuse(format!("it has {} bytes, at most {OFFER_BYTES} are taken", offer.len()));
    }
    if !offer.starts_with("v=0") {
        return refuse("it is no session description: it must begin with \"v=0\"".to_owned());
    }
    let (mut sections, mut candidates) = (0, 0);
    let (mut in_audio, mut audio, mut opus) = (false, false, false);
    for line in offer.lines() {
        if let Some(media) = line.strip_prefix("m=") {
            sections += 1;
            in_audio = media.starts_with("audio ");
            audio |= in_audio;
        }
        candidates += usize::from(line.starts_with("a=candidate:"));
        opus |= in_audio && is_opus(line);
    }
    if sections > OFFER_SECTIONS {
        return refuse(format!("it has {sections} media sections, at most {OFFER_SECTIONS} are taken"));
    }
    if candidates > CANDIDATES {
        return refuse(format!("it has {candidates} candidates, at most {CANDIDATES} are taken"));
    }
    if !audio {
        return refuse("it has no audio section; add an audio track before making the offer".to_owned());
    }
    if !opus {
        return refuse("its audio section does not offer opus/48000/2, the only codec spoken here".to_owned());
    }
    Ok(())
}

fn is_opus(line: &str) -> bool {
    line.strip_prefix("a=rtpmap:")
        .and_then(|map| map.split_once(' '))
        .is_some_and(|(_, codec)| codec.trim().eq_ignore_ascii_case("opus/48000/2"))
}

/// Puts `advertised` in the place of the own host addresses; candidates that become equal by that are given once.
/// Loopback candidates stay: they are for browsers on this machine, which the outer address may not serve.
pub(super) fn advertise(answer: &str, advertised: IpAddr) -> String {
    let mut seen: Vec<(String, String, String)> = Vec::new();
    let mut out = String::with_capacity(answer.len());
    for line in answer.split_inclusive('\n') {
        if line.starts_with("m=") {
            seen.clear();
        }
        match rewrite(line, advertised) {
            Rewrite::Keep => out.push_str(line),
            Rewrite::Replace { line, key } => {
                if !seen.contains(&key) {
                    out.push_str(&line);
                    seen.push(key);
                }
            }
        }
    }
    out
}

enum Rewrite {
    Keep,
    /// `key` is component, protocol and port: what tells candidates of one address apart.
    Replace {
        line: String,
        key: (String, String, String),
    },
}

/// `a=candidate:<foundation> <component> <protocol> <priority> <address> <port> typ <type> ...` (RFC 8839 5.1).
fn rewrite(line: &str, advertised: IpAddr) -> Rewrite {
    let fields: Vec<&str> = line.trim_end().split(' ').collect();
    let [first, component, protocol, _, address, port, "typ", "host", ..] = fields[..] else { return Rewrite::Keep };
    let Ok(own) = address.parse::<IpAddr>() else { return Rewrite::Keep };
    if !first.starts_with("a=candidate:") || own.is_loopback() || own.is_ipv4() != advertised.is_ipv4() {
        return Rewrite::Keep;
    }
    let advertised = advertised.to_string();
    let mut fields = fields.clone();
    fields[4] = &advertised;
    Rewrite::Replace {
        line: format!("{}\r\n", fields.join(" ")),
        key: (component.to_owned(), protocol.to_ascii_lowercase(), port.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: &str = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n\
        m=audio 9 UDP/TLS/RTP/SAVPF 111 0\r\na=rtpmap:111 opus/48000/2\r\na=rtpmap:0 PCMU/8000\r\n";

    fn reason(offer: &str) -> String {
        check_offer(offer).unwrap_err().to_string()
    }

    #[test]
    fn an_offer_of_opus_passes() {
        check_offer(OFFER).unwrap();
        check_offer(&OFFER.replace("opus/48000/2", "OPUS/48000/2")).unwrap();
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(reason("hello").contains("v=0"));
        assert!(reason(&OFFER.replace("m=audio", "m=video")).contains("no audio section"));
        assert!(reason(&OFFER.replace("opus", "vorbis")).contains("opus/48000/2"));
        assert!(reason(&OFFER.replace("111 opus/48000/2\r\n", "")).contains("opus/48000/2"));
        let video = format!("{}m=video 9 X 111\r\na=rtpmap:111 opus/48000/2\r\n", OFFER.replace("opus", "vorbis"));
        assert!(reason(&video).contains("opus/48000/2"));
        assert!(reason(&format!("{OFFER}{}", "m=video 9 X 96\r\n".repeat(8))).contains("9 media sections"));
        let candidate = "a=candidate:1 1 udp 1 10.0.0.1 5000 typ host\r\n";
        assert!(reason(&format!("{OFFER}{}", candidate.repeat(65))).contains("65 candidates"));
        assert!(reason(&format!("{OFFER}{}", candidate.repeat(10_000))).contains("bytes"));
    }

    #[test]
    fn the_outer_address_takes_the_place_of_the_own_ones() {
        let answer = "v=0\r\nm=audio 9 X 111\r\n\
            a=candidate:1 1 udp 2130706431 192.168.1.5 40000 typ host ufrag x\r\n\
            a=candidate:2 1 udp 2130706430 10.0.0.7 40000 typ host\r\n\
            a=candidate:3 1 udp 2130706429 127.0.0.1 40000 typ host\r\n\
            a=candidate:4 1 udp 2130706428 fe80::1 40000 typ host\r\n\
            a=candidate:5 1 udp 1 198.51.100.9 40000 typ srflx raddr 10.0.0.7 rport 40000\r\n\
            a=sendrecv\r\n";
        let want = "v=0\r\nm=audio 9 X 111\r\n\
            a=candidate:1 1 udp 2130706431 203.0.113.4 40000 typ host ufrag x\r\n\
            a=candidate:3 1 udp 2130706429 127.0.0.1 40000 typ host\r\n\
            a=candidate:4 1 udp 2130706428 fe80::1 40000 typ host\r\n\
            a=candidate:5 1 udp 1 198.51.100.9 40000 typ srflx raddr 10.0.0.7 rport 40000\r\n\
            a=sendrecv\r\n";
        assert_eq!(advertise(answer, [203, 0, 113, 4].into()), want);
    }
}
