use tokio::time::advance;

use super::*;

fn limits() -> RateLimits {
    RateLimits {
        messages_per_s: 10.0,
        message_burst: 20.0,
        bytes_per_s: 1000.0,
        byte_burst: 5000.0,
        offences: 3,
        requests_per_s: 2.0,
        request_burst: 4.0,
        peers: 3,
    }
}

fn address(last: u8) -> IpAddr {
    [192, 0, 2, last].into()
}

#[tokio::test(start_paused = true)]
async fn a_steady_client_is_never_refused_and_a_burst_is_bounded() {
    let mut rate = Rate::new(&limits());
    for _ in 0..20 {
        rate.take(10).unwrap();
    }
    assert_eq!(rate.take(10).unwrap_err().code, ErrorCode::RateLimited);
    for _ in 0..200 {
        advance(Duration::from_millis(101)).await;
        rate.take(10).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_count_as_messages_do_and_a_refused_message_costs_nothing() {
    let mut rate = Rate::new(&limits());
    rate.take(5000).unwrap();
    let error = rate.take(2000).unwrap_err();
    assert!(error.message.contains("1000 bytes per second") && error.message.contains("2.0 s"), "{error}");
    rate.take(0).unwrap();
    advance(Duration::from_secs(2)).await;
    rate.take(2000).unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_does_not_slow_down_is_closed_and_who_does_is_forgiven() {
    let mut rate = Rate::new(&limits());
    let flood = |rate: &mut Rate, refusals: usize| {
        let mut refused = 0;
        while refused < refusals {
            refused += usize::from(rate.take(1).is_err());
        }
    };
    flood(&mut rate, 2);
    assert!(!rate.exhausted());
    advance(Duration::from_secs(2)).await;
    rate.take(1).unwrap();
    flood(&mut rate, 2);
    assert!(!rate.exhausted(), "the first two were forgiven");
    flood(&mut rate, 1);
    assert!(rate.exhausted());
}

#[tokio::test(start_paused = true)]
async fn addresses_are_limited_apart_and_told_how_long_to_wait() {
    let peers = PeerLimits::new(&limits());
    for _ in 0..4 {
        peers.take(address(1)).unwrap();
    }
    let wait = peers.take(address(1)).unwrap_err();
    assert_eq!(wait, Duration::from_millis(500));
    peers.take(address(2)).unwrap();
    advance(wait).await;
    peers.take(address(1)).unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_table_is_bounded_and_quiet_addresses_leave_it() {
    let peers = PeerLimits::new(&limits());
    (1..=3).for_each(|last| peers.take(address(last)).unwrap());
    // Everybody else shares what one address may have.
    let served = (4..=250).filter(|&last| peers.take(address(last)).is_ok()).count();
    assert_eq!(served, 4);
    assert_eq!(peers.peers.lock().unwrap().buckets.len(), 3);
    advance(Duration::from_secs(2)).await;
    (4..=6).for_each(|last| peers.take(address(last)).unwrap());
    assert!(peers.peers.lock().unwrap().buckets.contains_key(&address(6)));
}

#[test]
fn an_ipv6_network_counts_as_one_and_a_mapped_address_as_its_ipv4() {
    let parse = |text: &str| text.parse::<IpAddr>().unwrap();
    assert_eq!(network(parse("2001:db8::1")), network(parse("2001:db8::ffff:2")));
    assert_ne!(network(parse("2001:db8:0:1::1")), network(parse("2001:db8:0:2::1")));
    assert_eq!(network(parse("::ffff:192.0.2.1")), address(1));
}

#[test]
fn limits_that_cannot_work_are_named() {
    RateLimits::default().validate(8 << 20).unwrap();
    let field = |change: fn(&mut RateLimits)| {
        let mut limits = RateLimits::default();
        change(&mut limits);
        limits.validate(8 << 20).unwrap_err().field
    };
    assert_eq!(field(|limits| limits.messages_per_s = 0.0), "messages_per_s");
    assert_eq!(field(|limits| limits.byte_burst = 1e6), "byte_burst");
    assert_eq!(field(|limits| limits.requests_per_s = f64::NAN), "requests_per_s");
    assert_eq!(field(|limits| limits.offences = 0), "offences");
    assert_eq!(field(|limits| limits.peers = 0), "peers");
}
