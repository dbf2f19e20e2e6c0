use super::*;

const KEY: &str = "a-key-that-nobody-guesses";

fn ring() -> KeyRing {
    KeyRing::new(vec![
        ApiKey { name: "phone".to_owned(), hash: hash_key(KEY) },
        ApiKey { name: "web".to_owned(), hash: hash_key("another-one-nobody-guesses") },
    ])
}

fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
    list.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
}

fn near() -> SocketAddr {
    ([127, 0, 0, 1], 5000).into()
}

fn far() -> SocketAddr {
    ([192, 0, 2, 7], 5000).into()
}

fn uri(text: &str) -> Uri {
    text.parse().unwrap()
}

#[test]
fn a_key_is_found_wherever_it_may_stand() {
    let ring = ring();
    let protocol = format!("realtime, duologue.key.{KEY}");
    let insecure = format!("openai-insecure-api-key.{KEY}");
    let bearer = format!("Bearer {KEY}");
    let none = HeaderMap::new();
    for (headers, uri, subprotocol) in [
        (headers(&[("authorization", &bearer)]), uri("/v1/live/sessions"), None),
        (headers(&[("sec-websocket-protocol", &protocol)]), uri("/"), Some("realtime".to_owned())),
        (headers(&[("sec-websocket-protocol", &insecure)]), uri("/"), Some(insecure.clone())),
        (none, uri(&format!("/v1/live/sessions?model=x&token={KEY}")), None),
    ] {
        let identity = ring.authorize(&headers, &uri, far()).unwrap();
        assert_eq!(identity, Identity { name: "phone".to_owned(), scope: Scope::Full, subprotocol });
    }
}

#[test]
fn without_the_right_key_nobody_comes_in_not_even_from_this_machine() {
    let ring = ring();
    assert_eq!(ring.authorize(&HeaderMap::new(), &uri("/"), near()), Err(AuthError::Missing));
    for wrong in ["Bearer no", "Bearer a-key-that-nobody-guesse", "Bearer a-key-that-nobody-guesses2"] {
        let headers = headers(&[("authorization", wrong)]);
        assert_eq!(ring.authorize(&headers, &uri("/"), near()), Err(AuthError::Unknown), "{wrong}");
    }
    let basic = headers(&[("authorization", "Basic eDp5")]);
    assert_eq!(ring.authorize(&basic, &uri("/?token="), near()), Err(AuthError::Missing));
}

#[test]
fn a_server_without_keys_serves_its_own_machine_only() {
    let ring = KeyRing::new(Vec::new());
    let plain = headers(&[("host", "localhost:8998"), ("authorization", "Bearer anything")]);
    assert_eq!(ring.authorize(&plain, &uri("/"), near()).unwrap().name, "local");
    assert_eq!(ring.authorize(&plain, &uri("/"), ([0, 0, 0, 0, 0, 0, 0, 1], 9).into()).unwrap().scope, Scope::Full);
    assert_eq!(ring.authorize(&plain, &uri("/"), far()), Err(AuthError::NotLocal));
    for (name, value) in
        [("x-forwarded-for", "192.0.2.7"), ("forwarded", "for=192.0.2.7"), ("host", "evil.example:8998")]
    {
        let headers = headers(&[(name, value)]);
        assert_eq!(ring.authorize(&headers, &uri("/"), near()), Err(AuthError::NotDirect), "{name}");
    }
}

#[test]
fn loopback_hosts_are_told_from_others() {
    for host in ["localhost", "LOCALHOST:8998", "app.localhost:1", "127.0.0.1:8998", "127.9.9.9", "[::1]:8998", "[::1]"]
    {
        assert!(is_loopback_host(host_name(host)), "{host}");
    }
    for host in ["localhost.example.com", "notlocalhost", "10.0.0.1", "[fe80::1]:1", "", "128.0.0.1:127"] {
        assert!(!is_loopback_host(host_name(host)), "{host}");
    }
}

fn bearer(token: &str) -> HeaderMap {
    headers(&[("authorization", &format!("Bearer {token}"))])
}

#[tokio::test(start_paused = true)]
async fn a_secret_counts_for_its_maker_until_it_expires_and_makes_no_secrets() {
    let ring = ring();
    let maker = ring.authorize(&bearer(KEY), &uri("/"), far()).unwrap();
    let secret = ring.make_secret(&maker, 10).unwrap();
    assert!(secret.value.starts_with("ek_") && secret.value.len() == 35);
    assert!(!format!("{secret:?}").contains(&secret.value));
    tokio::time::advance(Duration::from_millis(9_999)).await;
    let holder = ring.authorize(&bearer(&secret.value), &uri("/"), far()).unwrap();
    assert_eq!((holder.name.as_str(), holder.scope), ("phone", Scope::Session));
    assert_eq!(ring.make_secret(&holder, 600), Err(AuthError::SecretScope));
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(ring.authorize(&bearer(&secret.value), &uri("/"), far()), Err(AuthError::Unknown));
}

#[tokio::test(start_paused = true)]
async fn secrets_are_bounded_in_life_and_number() {
    let ring = ring();
    let maker = ring.authorize(&bearer(KEY), &uri("/"), far()).unwrap();
    for seconds in [0, 9, 7201] {
        assert_eq!(ring.make_secret(&maker, seconds), Err(AuthError::SecretLife(seconds)));
    }
    for _ in 0..MAX_SECRETS {
        ring.make_secret(&maker, 20).unwrap();
    }
    assert_eq!(ring.make_secret(&maker, 20), Err(AuthError::TooManySecrets));
    tokio::time::advance(Duration::from_secs(20)).await;
    ring.make_secret(&maker, 20).unwrap();
    assert_eq!(ring.secrets().len(), 1, "expired ones are forgotten");
}
