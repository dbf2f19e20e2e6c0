//! Lays the layers of the configuration over each other and remembers where each value came from.
//!
//! Works on a JSON tree of the settings: unlike TOML it has a null, so that also settings without a value have a place.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{ConfigArgs, Problem, ServeConfig};

/// Environment variables of ours begin so; the rest is the field in capitals, with `_` for `.`.
const PREFIX: &str = "DUOLOGUE_";
/// Names the file; no setting.
const FILE_VARIABLE: &str = "DUOLOGUE_CONFIG";
/// Fields whose values must not appear in an error, and how they are written in one line.
const SECRET_FIELDS: [(&str, &str); 2] = [
    ("auth.keys", "name:key,name:key; a key has 16 characters or more, letters, digits, - and _"),
    ("webrtc.ice_servers", "[{ urls = [\"turn:host:3478\"], username = \"...\", credential = \"...\" }]"),
];

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Built in.
    Default,
    /// This file.
    File(PathBuf),
    /// This environment variable.
    Environment(String),
    /// This flag.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => out.write_str("default"),
            Self::File(path) => write!(out, "{}", path.display()),
            Self::Environment(name) => write!(out, "environment variable {name}"),
            Self::Flag(name) => write!(out, "flag {name}"),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration file {}: {error}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file is no TOML, or has a field that does not exist or a value of another kind.
    #[error("configuration file {} line {line}: {}{reason}", path.display(), field_prefix(field))]
    File {
        /// Which.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Path of the field; empty when it is not known.
        field: String,
        /// What is wrong.
        reason: String,
    },
    /// A value that cannot be.
    #[error("{layer}: {field}: {reason}")]
    Value {
        /// Where it came from.
        layer: Source,
        /// Path of the field.
        field: String,
        /// What is wrong, and what to write instead.
        reason: String,
    },
}

fn field_prefix(field: &str) -> String {
    if field.is_empty() || field == "." { String::new() } else { format!("{field}: ") }
}

/// The configuration in force.
#[derive(Debug, Clone)]
pub struct Effective {
    /// The settings.
    pub config: ServeConfig,
    /// Where the settings that are not default came from, by field.
    pub(super) sources: BTreeMap<String, Source>,
    /// Variables that begin like ours but name no setting. They are no error: Kubernetes sets `DUOLOGUE_PORT` and more for
    /// a service that is called duologue.
    pub(super) ignored: Vec<String>,
}

impl Effective {
    /// Nobody has set the field.
    pub fn is_default(&self, field: &str) -> bool {
        !self.sources.contains_key(field)
    }

    /// What is no error and yet perhaps not what was meant, a line each.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        self.ignored.iter().map(|name| format!("environment variable {name} names no setting and is ignored"))
    }
}

/// Reads all layers.
pub(super) fn load(
    args: &ConfigArgs,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Effective, ConfigError> {
    let mut layers = Layers::new();
    if let Some(path) = &args.config {
        layers.file(path)?;
    }
    let ignored = layers.environment(environment)?;
    for (field, text) in args.fields() {
        if let Some(text) = text {
            layers.text(field, text, Source::Flag(format!("--{field}")))?;
        }
    }
    for assignment in &args.set {
        let source = Source::Flag("--set".to_owned());
        let Some((field, text)) = assignment.split_once('=') else {
            let reason = "write --set field=value, such as --set limits.idle_s=120".to_owned();
            return Err(ConfigError::Value { layer: source, field: assignment.clone(), reason });
        };
        layers.text(field.trim(), text.trim(), source)?;
    }
    layers.finish(ignored)
}

/// Paths of all settings in a tree: whatever is no section.
pub(super) fn leaves(tree: &Value) -> Vec<(String, &Value)> {
    fn walk<'a>(section: &'a Map<String, Value>, path: &str, found: &mut Vec<(String, &'a Value)>) {
        for (name, value) in section {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            match value {
                Value::Object(inner) => walk(inner, &path, found),
                leaf => found.push((path, leaf)),
            }
        }
    }
    let mut found = Vec::new();
    walk(tree.as_object().expect("settings are a table. This is a bug."), "", &mut found);
    found
}

pub(super) fn tree_of(config: &ServeConfig) -> Value {
    serde_json::to_value(config).expect("settings are plain data. This is a bug.")
}

struct Layers {
    tree: Value,
    /// Every setting there is.
    fields: Vec<String>,
    sources: BTreeMap<String, Source>,
}

impl Layers {
    fn new() -> Self {
        let tree = tree_of(&ServeConfig::default());
        let fields = leaves(&tree).into_iter().map(|(field, _)| field).collect();
        Self { tree, fields, sources: BTreeMap::new() }
    }

    fn file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = fs::read_to_string(path).map_err(|error| ConfigError::Read { path: path.to_owned(), error })?;
        // The text around an error is not shown: it may be a key.
        let refuse = |error: &toml::de::Error, field: String| {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            let secret = SECRET_FIELDS.iter().find(|(name, _)| field.starts_with(name));
            let reason = match secret.filter(|_| error.message().starts_with("invalid type")) {
                Some((_, spelling)) => format!("a value of the wrong kind; as one line it is {spelling}"),
                None => error.message().to_owned(),
            };
            ConfigError::File { path: path.to_owned(), line, field, reason }
        };
        let deserializer = toml::Deserializer::parse(&text).map_err(|error| refuse(&error, String::new()))?;
        // Read once by its types, for errors that know their line, and once as a tree, to lay it over.
        serde_path_to_error::deserialize::<_, ServeConfig>(deserializer)
            .map_err(|error| refuse(error.inner(), error.path().to_string()))?;
        let table: toml::Table = toml::from_str(&text).map_err(|error| refuse(&error, String::new()))?;
        let over = serde_json::to_value(table).expect("TOML is plain data. This is a bug.");
        let fields = &self.fields;
        let sources = &mut self.sources;
        lay_over(&mut self.tree, over, "", &mut |field| {
            debug_assert!(fields.iter().any(|known| known == field), "{field}");
            sources.insert(field.to_owned(), Source::File(path.to_owned()));
        });
        Ok(())
    }

    /// Takes the variables of ours; an empty one counts as not set. Returns those that name no setting.
    fn environment(
        &mut self,
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Vec<String>, ConfigError> {
        let mut ignored = Vec::new();
        for (name, text) in variables {
            let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX) && *name != FILE_VARIABLE) else {
                continue;
            };
            let wanted = &name[PREFIX.len()..];
            let field =
                self.fields.iter().find(|field| field.replace('.', "_").to_ascii_uppercase() == wanted).cloned();
            let Some(field) = field else {
                ignored.push(name.to_owned());
                continue;
            };
            let source = Source::Environment(name.to_owned());
            match text.to_str() {
                Some("") => {}
                Some(text) => self.text(&field, text, source)?,
                None => return Err(ConfigError::Value { layer: source, field, reason: "is not UTF-8".to_owned() }),
            }
        }
        ignored.sort();
        Ok(ignored)
    }

    /// Sets one field from a line of text: as it stands, as a TOML value, or as a list with commas, whichever the field
    /// takes.
    fn text(&mut self, field: &str, text: &str, source: Source) -> Result<(), ConfigError> {
        let refuse = |reason: String| ConfigError::Value { layer: source.clone(), field: field.to_owned(), reason };
        if !self.fields.iter().any(|known| known == field) {
            return Err(refuse("there is no such setting; `duologue check` lists all".to_owned()));
        }
        let is_list = self.tree.pointer(&pointer(field)).is_some_and(Value::is_array);
        let literal = toml::from_str::<toml::Table>(&format!("value = {text}")).ok();
        let literal = literal.and_then(|table| serde_json::to_value(&table["value"]).ok());
        let list = Value::Array(text.split(',').map(|part| part.trim().into()).collect());
        let spellings = if is_list {
            [literal.filter(Value::is_array), Some(list)]
        } else {
            // A name that looks like a number stays a name where one is wanted.
            [literal, Some(Value::from(text))]
        };
        let mut first_problem = None;
        for value in spellings.into_iter().flatten() {
            let mut tree = self.tree.clone();
            *tree.pointer_mut(&pointer(field)).expect("every field has a place. This is a bug.") = value;
            match serde_json::from_value::<ServeConfig>(tree.clone()) {
                Ok(_) => {
                    self.tree = tree;
                    self.sources.insert(field.to_owned(), source);
                    return Ok(());
                }
                Err(error) => {
                    first_problem.get_or_insert(error.to_string());
                }
            }
        }
        let secret = SECRET_FIELDS.iter().find(|(name, _)| *name == field);
        Err(refuse(match secret {
            Some((_, spelling)) => format!("cannot be read; write {spelling}"),
            None => format!("{text:?}: {}", first_problem.unwrap_or_default()),
        }))
    }

    fn finish(self, ignored: Vec<String>) -> Result<Effective, ConfigError> {
        let Self { tree, sources, .. } = self;
        let config: ServeConfig = serde_json::from_value(tree).expect("every layer was checked. This is a bug.");
        config.validate().map_err(|Problem { field, reason }| {
            let layer = sources.get(&field).cloned().unwrap_or(Source::Default);
            ConfigError::Value { layer, field, reason }
        })?;
        Ok(Effective { config, sources, ignored })
    }
}

pub(super) fn pointer(field: &str) -> String {
    format!("/{}", field.replace('.', "/"))
}

/// Sections are merged, everything else is replaced; `took` hears of every setting that `over` has.
fn lay_over(base: &mut Value, over: Value, path: &str, took: &mut dyn FnMut(&str)) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (name, value) in over {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                lay_over(base.entry(name).or_insert(Value::Null), value, &path, took);
            }
        }
        (base, over) => {
            *base = over;
            took(path);
        }
    }
}
