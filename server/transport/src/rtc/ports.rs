//! One UDP port for each session.
//!
//! Owns the search for a free one. Must not keep sockets: the WebRTC library binds its own, so a port found free here
//! may be taken a moment later, and who asked must be ready to ask again.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use rand::Rng;

use super::RtcError;
use super::config::{PortRange, RtcConfig};

/// The ports to try, each once, from a random start: a port that was just given back may still get packets of the
/// session before.
pub(super) fn candidates(config: &RtcConfig) -> Vec<u16> {
    let Some(PortRange { first, last }) = config.ports else { return vec![0] };
    let count = u32::from(last - first) + 1;
    let start = rand::rng().random_range(0..count);
    (0..count).map(|step| (u32::from(first) + (start + step) % count) as u16).collect()
}

/// Whether `port` can be bound on all addresses now.
pub(super) fn is_free(addresses: &[IpAddr], port: u16) -> bool {
    port == 0 || addresses.iter().all(|&ip| UdpSocket::bind(SocketAddr::new(ip, port)).is_ok())
}

/// The error when none was free.
pub(super) fn exhausted(config: &RtcConfig, last: Option<String>) -> RtcError {
    let range = config.ports.map_or_else(|| "any".to_owned(), |range| format!("{} to {}", range.first, range.last));
    let addresses = config.addresses().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let detail = last.map_or_else(String::new, |error| format!(": {error}"));
    RtcError::NoPort { range, addresses, detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_of_the_range_is_tried_once() {
        let config = RtcConfig { ports: Some(PortRange { first: 65_530, last: 65_535 }), ..RtcConfig::default() };
        for _ in 0..20 {
            let mut ports = candidates(&config);
            ports.sort_unstable();
            assert_eq!(ports, [65_530, 65_531, 65_532, 65_533, 65_534, 65_535]);
        }
        assert_eq!(candidates(&RtcConfig::default()), [0]);
    }

    #[test]
    fn a_bound_port_is_not_free() {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        let socket = UdpSocket::bind((loopback, 0)).unwrap();
        let port = socket.local_addr().unwrap().port();
        assert!(!is_free(&[loopback], port));
        drop(socket);
        assert!(is_free(&[loopback], port));
    }
}
