//! Shows the configuration in force: TOML that can be read back (but for what is hidden), each value with its source.

use std::fmt;

use serde_json::Value;

use super::ServeConfig;
use super::keys::HIDDEN;
use super::layers::{Effective, Source, leaves, pointer, tree_of};

/// Where comments begin, so that values and sources can be told apart at a glance.
const COMMENT_COLUMN: usize = 44;

impl fmt::Display for Effective {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tree, all) = (tree_of(&self.config), tree_of(&ServeConfig::default()));
        let mut settings: Vec<String> = leaves(&all).into_iter().map(|(field, _)| field).collect();
        // TOML wants what belongs to no section first.
        settings.sort_by_key(|field| field.contains('.'));
        let mut section = "";
        for field in &settings {
            let value = tree.pointer(&pointer(field)).unwrap_or(&Value::Null);
            let (part, name) = field.rsplit_once('.').unwrap_or(("", field));
            if part != section {
                writeln!(out, "\n[{part}]")?;
                section = part;
            }
            let source = self.sources.get(field).unwrap_or(&Source::Default);
            match literal(value) {
                Some(literal) => {
                    let line = format!("{name} = {literal}");
                    writeln!(out, "{line:COMMENT_COLUMN$} # {source}")?;
                }
                None => writeln!(out, "{:COMMENT_COLUMN$} # {source}", format!("# {name} is not set"))?,
            }
        }
        for warning in self.warnings() {
            writeln!(out, "\n# {warning}")?;
        }
        Ok(())
    }
}

/// A value as TOML writes it in one line; `None` for one that is not set.
fn literal(value: &Value) -> Option<String> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(value) => value.to_string(),
        Value::String(text) => toml::Value::from(text.as_str()).to_string(),
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(float) => decimal(float),
            None => number.to_string(),
        },
        Value::Array(items) => {
            let items: Vec<_> = items.iter().filter_map(literal).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(table) => {
            let pairs = table.iter().filter_map(|(name, value)| {
                let value = if name == "credential" { &Value::from(HIDDEN) } else { value };
                Some(format!("{name} = {}", literal(value)?))
            });
            format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
        }
    })
}

/// A number that came from 32 bits is written with as many digits as they hold.
fn decimal(value: f64) -> String {
    let short = value as f32;
    if f64::from(short) == value { format!("{short:?}") } else { format!("{value:?}") }
}
