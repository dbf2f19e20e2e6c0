//! Settings of the WebRTC side, as they stand in the configuration file.
//!
//! Owns their meaning and their check. Must not open anything.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// UDP ports, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

/// A STUN or TURN server that clients are told to use (the fields of the browser's `RTCIceServer`).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IceServer {
    /// `stun:`, `turn:` or `turns:` addresses.
    pub urls: Vec<String>,
    /// For TURN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// For TURN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}

impl fmt::Debug for IceServer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The credential stays out of logs.
        let Self { urls, username, .. } = self;
        out.debug_struct("IceServer").field("urls", urls).field("username", username).finish_non_exhaustive()
    }
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RtcConfig {
    /// Addresses that media is received on. `0.0.0.0` and `::` mean every interface of that family but loopback.
    pub bind: Vec<IpAddr>,
    /// Listen on 127.0.0.1 too, for browsers on this machine.
    pub loopback: bool,
    /// Each session takes one UDP port out of this range and frees it at its end. Without it, the system picks one.
    pub ports: Option<PortRange>,
    /// The address that clients reach this machine by, when it stands behind a 1:1 NAT: it takes the place of the own
    /// ones in answers. The range of ports must be forwarded unchanged.
    pub advertised_ip: Option<IpAddr>,
    /// Told to clients. The server itself is reached at its own or its advertised address and needs none.
    pub ice_servers: Vec<IceServer>,
    /// Packets that the network is thought to lose, in percent: decides how much of the sound is sent twice.
    pub expected_loss_percent: u8,
    /// A session whose client has not connected after this many seconds ends.
    pub connect_timeout_s: u32,
}

impl Default for RtcConfig {
    fn default() -> Self {
        Self {
            bind: vec![IpAddr::from([0, 0, 0, 0])],
            loopback: true,
            ports: None,
            advertised_ip: None,
            ice_servers: Vec::new(),
            expected_loss_percent: 10,
            connect_timeout_s: 15,
        }
    }
}

/// A setting that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("webrtc.{field}: {reason}")]
pub struct RtcConfigError {
    /// Name of the setting.
    pub field: &'static str,
    /// What is wrong and what to write instead.
    pub reason: String,
}

impl RtcConfig {
    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// The first setting that cannot work.
    pub fn validate(&self) -> Result<(), RtcConfigError> {
        let wrong = |field, reason: String| Err(RtcConfigError { field, reason });
        if self.bind.is_empty() && !self.loopback {
            return wrong("bind", "no address to listen on; write [\"0.0.0.0\"]".to_owned());
        }
        if let Some(PortRange { first, last }) = self.ports
            && (first == 0 || last < first)
        {
            return wrong("ports", format!("{first} to {last} is no range; write first = 40000, last = 40199"));
        }
        if let Some(ip) = self.advertised_ip
            && (ip.is_unspecified() || ip.is_multicast())
        {
            return wrong("advertised_ip", format!("{ip} is no address that a client can send to"));
        }
        for server in &self.ice_servers {
            if server.urls.is_empty() {
                return wrong("ice_servers", "a server without urls".to_owned());
            }
            for url in &server.urls {
                let turn = url.starts_with("turn:") || url.starts_with("turns:");
                if !turn && !url.starts_with("stun:") && !url.starts_with("stuns:") {
                    return wrong("ice_servers", format!("{url:?} must begin with stun:, turn: or turns:"));
                }
                if turn && (server.username.is_none() || server.credential.is_none()) {
                    return wrong("ice_servers", format!("{url:?} needs a username and a credential"));
                }
            }
        }
        if self.expected_loss_percent > 100 {
            return wrong("expected_loss_percent", format!("{} is more than 100", self.expected_loss_percent));
        }
        if !(1..=600).contains(&self.connect_timeout_s) {
            return wrong("connect_timeout_s", format!("{} is not within 1 to 600", self.connect_timeout_s));
        }
        Ok(())
    }

    pub(super) fn connect_timeout(&self) -> Duration {
        Duration::from_secs(u64::from(self.connect_timeout_s))
    }

    /// Addresses to bind, without repetition.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        let loopback = self.loopback.then(|| IpAddr::from([127, 0, 0, 1]));
        let mut addresses: Vec<IpAddr> = Vec::new();
        for ip in self.bind.iter().copied().chain(loopback) {
            if !addresses.contains(&ip) {
                addresses.push(ip);
            }
        }
        addresses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(change: impl FnOnce(&mut RtcConfig)) -> &'static str {
        let mut config = RtcConfig::default();
        change(&mut config);
        config.validate().unwrap_err().field
    }

    #[test]
    fn the_default_works_and_an_empty_object_is_the_default() {
        RtcConfig::default().validate().unwrap();
        assert_eq!(serde_json::from_str::<RtcConfig>("{}").unwrap(), RtcConfig::default());
        assert!(serde_json::from_str::<RtcConfig>(r#"{"port": 1}"#).is_err());
    }

    #[test]
    fn a_credential_is_not_shown() {
        let server = IceServer {
            urls: vec!["turn:turn.example.com".to_owned()],
            username: Some("duologue".to_owned()),
            credential: Some("a-turn-password".to_owned()),
        };
        let shown = format!("{:?}", RtcConfig { ice_servers: vec![server], ..RtcConfig::default() });
        assert!(shown.contains("turn.example.com") && !shown.contains("a-turn-password"), "{shown}");
    }

    #[test]
    fn what_cannot_work_is_named() {
        assert_eq!(problem(|config| (config.bind, config.loopback) = (vec![], false)), "bind");
        assert_eq!(problem(|config| config.ports = Some(PortRange { first: 9, last: 8 })), "ports");
        assert_eq!(problem(|config| config.ports = Some(PortRange { first: 0, last: 8 })), "ports");
        assert_eq!(problem(|config| config.advertised_ip = Some([0, 0, 0, 0].into())), "advertised_ip");
        assert_eq!(problem(|config| config.expected_loss_percent = 101), "expected_loss_percent");
        assert_eq!(problem(|config| config.connect_timeout_s = 0), "connect_timeout_s");
        for urls in [vec![], vec!["http://a".to_owned()], vec!["turn:a".to_owned()]] {
            let server = IceServer { urls, username: None, credential: None };
            assert_eq!(problem(|config| config.ice_servers = vec![server]), "ice_servers");
        }
    }
}
