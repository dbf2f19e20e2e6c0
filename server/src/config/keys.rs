//! API keys as operators write them. A key is hashed as soon as it is read, so that no print, log or error can show it.

use std::fmt;
use std::fs;
use std::str::FromStr;

use duologue_transport::http::auth::{ApiKey, KeyHash, hash_key};
use serde::de::{self, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{AuthConfig, Problem};

/// Shortest key: 16 characters as `openssl rand -hex 8` gives them are 64 bits, which nobody guesses over a network.
const MIN_KEY_LENGTH: usize = 16;
const HASH_PREFIX: &str = "sha256:";
/// What stands in place of a key where settings are shown.
pub const HIDDEN: &str = "(hidden)";

/// One entry of `auth.keys`: `{ name, key }`, `{ name, sha256 }`, or `"name:key"`, `"name:sha256:HASH"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyEntry(pub ApiKey);

impl Serialize for KeyEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut entry = serializer.serialize_struct("KeyEntry", 2)?;
        entry.serialize_field("name", &self.0.name)?;
        entry.serialize_field("key", HIDDEN)?;
        entry.end()
    }
}

impl<'de> Deserialize<'de> for KeyEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Spelling;
        impl<'de> Visitor<'de> for Spelling {
            type Value = KeyEntry;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a table with name and key (or sha256), or \"name:key\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<KeyEntry, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<KeyEntry, M::Error> {
                #[derive(Deserialize)]
                #[serde(deny_unknown_fields)]
                struct Table {
                    name: String,
                    key: Option<String>,
                    sha256: Option<String>,
                }
                let table = Table::deserialize(MapAccessDeserializer::new(map))?;
                let entry = match (table.key, table.sha256) {
                    (Some(key), None) => KeyEntry::of_key(&table.name, &key),
                    (None, Some(hash)) => KeyEntry::of_hash(&table.name, &hash),
                    _ => Err("give either key or sha256".to_owned()),
                };
                entry.map_err(de::Error::custom)
            }
        }
        deserializer.deserialize_any(Spelling)
    }
}

impl FromStr for KeyEntry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rest) = text.split_once(':').ok_or("an entry is written name:key or name:sha256:HASH")?;
        match rest.strip_prefix(HASH_PREFIX) {
            Some(hash) => Self::of_hash(name, hash),
            None => Self::of_key(name, rest),
        }
    }
}

impl KeyEntry {
    fn of_key(name: &str, key: &str) -> Result<Self, String> {
        if key.len() < MIN_KEY_LENGTH {
            return Err(format!(
                "the key {name:?} has {} characters, at least {MIN_KEY_LENGTH} are needed; make one with `openssl rand -hex 24`",
                key.len()
            ));
        }
        // What a WebSocket subprotocol may hold (RFC 6455, section 4.1: a token of RFC 2616).
        let sendable = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if !key.bytes().all(sendable) {
            return Err(format!(
                "the key {name:?} has a character that browsers cannot send; use letters, digits, - and _"
            ));
        }
        Self::named(name, hash_key(key))
    }

    fn of_hash(name: &str, hash: &str) -> Result<Self, String> {
        let mut bytes = KeyHash::default();
        let whole = hash.len() == 2 * bytes.len() && hash.is_ascii();
        for (at, byte) in bytes.iter_mut().enumerate() {
            let digits = hash.get(2 * at..2 * at + 2).filter(|_| whole);
            *byte = digits
                .and_then(|digits| u8::from_str_radix(digits, 16).ok())
                .ok_or_else(|| format!("the sha256 of key {name:?} is not 64 hexadecimal digits"))?;
        }
        Self::named(name, bytes)
    }

    fn named(name: &str, hash: KeyHash) -> Result<Self, String> {
        let name = name.trim();
        match name.is_empty() {
            true => Err("a key without a name; the name is what logs and limits call it".to_owned()),
            false => Ok(Self(ApiKey { name: name.to_owned(), hash })),
        }
    }
}

impl AuthConfig {
    /// The keys of the configuration and of the file.
    pub(super) fn all_keys(&self) -> Result<Vec<ApiKey>, Problem> {
        let mut keys: Vec<ApiKey> = self.keys.iter().map(|entry| entry.0.clone()).collect();
        if let Some(path) = &self.keys_file {
            let problem = |reason: String| Problem::new("auth.keys_file", format!("{}{reason}", path.display()));
            let text = fs::read_to_string(path).map_err(|error| problem(format!(": {error}")))?;
            for (index, line) in text.lines().map(str::trim).enumerate() {
                if !line.is_empty() && !line.starts_with('#') {
                    let entry: KeyEntry =
                        line.parse().map_err(|reason| problem(format!(" line {}: {reason}", index + 1)))?;
                    keys.push(entry.0);
                }
            }
        }
        for (at, key) in keys.iter().enumerate() {
            if keys[..at].iter().any(|other| other.name == key.name) {
                let reason = format!("two keys are named {:?}; limits count by name, so give each its own", key.name);
                return Err(Problem::new("auth.keys", reason));
            }
        }
        Ok(keys)
    }
}
