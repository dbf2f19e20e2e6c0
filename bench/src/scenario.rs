//! What is said to the server, by how many, and what the figures must reach: a TOML file.
//!
//! Owns the file's form and its checks. Unknown keys and values that cannot be are refused, so that a gate with a slip of
//! the pen does not pass for ever. `bench/scenarios` has examples of everything.

use std::path::{Path, PathBuf};
use std::time::Duration;

use duologue_proto::forced_schedule::ForcedSchedule;
use serde::{Deserialize, Serialize};

use crate::error::BenchError;
use crate::gates::Gate;
use crate::voice::{Line, Phone};

/// Longest silence or clip, in seconds.
const LONGEST_S: f64 = 3_600.0;
/// Most sessions at once and most runs: far beyond any machine, near enough to catch a slip.
const MOST: usize = 10_000;
/// The server keeps four pictures of a second.
const LEAST_CAMERA_S: f64 = 0.25;
/// In base64 it must fit into a message of a WebRTC data channel.
const PICTURE_BYTES: usize = 190_000;

/// A scenario, checked, with its sound.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Name of the file without its ending.
    pub name: String,
    /// What the file says.
    pub file: ScenarioFile,
    /// One for each of the file's `user` entries.
    pub lines: Vec<Option<Line>>,
    /// The file of the camera's picture.
    pub picture: Option<Vec<u8>>,
}

/// The file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScenarioFile {
    /// One line about it, for reports.
    pub about: String,
    /// Seed of the pauses, of arrivals and of the model's draws.
    #[serde(default)]
    pub seed: u64,
    /// Times that everything is repeated; their spread tells what is noise.
    #[serde(default = "one")]
    pub runs: usize,
    /// Seconds of a conversation before the first run, which nobody counts.
    #[serde(default)]
    pub warm_up_s: f64,
    /// The user's sound goes through a telephone first (8 kHz, G.711). A WebSocket then carries that, both ways; over WebRTC only
    /// the sound is like it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phone: Option<Phone>,
    /// What each session asks of the server.
    #[serde(default)]
    pub session: SessionWishes,
    /// How many sessions there are; one when missing.
    #[serde(default)]
    pub load: LoadPlan,
    /// What the model is shown; nothing when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub camera: Option<CameraFile>,
    /// What the user says, in this order.
    pub user: Vec<UserEntry>,
    /// What the figures must reach.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<Gate>,
}

fn one() -> usize {
    1
}

/// What a session asks of the server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SessionWishes {
    /// System prompt; the bundle's when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// The model always takes its best token.
    pub greedy: bool,
    /// When the model listens and speaks, in its place; the server must allow it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ForcedSchedule>,
}

/// A picture that a camera shows all the time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CameraFile {
    /// JPEG or PNG, relative to the scenario's file.
    pub picture: PathBuf,
    /// Seconds from one to the next.
    pub every_s: f64,
}

/// How many sessions there are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoadPlan {
    /// Closed loop: so many at once, each number in turn.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sessions: Vec<usize>,
    /// Open loop: sessions that begin in a minute, at random (Poisson), whether or not the server keeps up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arrivals_per_minute: Option<f64>,
    /// How long sessions arrive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arrivals_s: Option<f64>,
}

/// One load of a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Load {
    /// So many sessions at once.
    Sessions(usize),
    /// So many new ones in a minute.
    ArrivalsPerMinute(f64),
}

impl std::fmt::Display for Load {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sessions(1) => out.write_str("1 session"),
            Self::Sessions(count) => write!(out, "{count} sessions"),
            Self::ArrivalsPerMinute(rate) => write!(out, "{rate} arrivals a minute"),
        }
    }
}

/// Something that the user says, and the silence after it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserEntry {
    /// The recording, relative to the scenario's file; without one there is only silence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wav: Option<PathBuf>,
    /// Where in the recording it begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_s: Option<f64>,
    /// And where it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_s: Option<f64>,
    /// Silence after it.
    pub quiet_s: f64,
    /// At most so much more silence, drawn for each session, so that voices end anywhere within a unit.
    #[serde(default)]
    pub quiet_jitter_s: f64,
    /// It waits for a reply and speaks into it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interrupts: Option<Interruption>,
    /// Times it is said.
    #[serde(default = "one")]
    pub repeat: usize,
}

/// When an interruption begins.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interruption {
    /// When so much of the reply was heard.
    pub after_s: f64,
    /// If no reply comes within this time, nothing is said.
    pub wait_s: f64,
}

impl Scenario {
    /// Reads a file and the recordings it names.
    ///
    /// # Errors
    /// [`BenchError::Scenario`], naming the line or the key.
    pub fn read(path: &Path) -> Result<Self, BenchError> {
        let refuse = |reason: String| BenchError::Scenario { path: path.to_path_buf(), reason };
        let text = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
        let file = ScenarioFile::parse(&text).map_err(refuse)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let line = |entry: &UserEntry| {
            let Some(wav) = &entry.wav else { return Ok(None) };
            Line::read(&folder.join(wav), entry.from_s..entry.to_s, file.phone).map(Some)
        };
        let lines = file.user.iter().map(line).collect::<Result<_, String>>().map_err(refuse)?;
        let name = path.file_stem().map_or_else(|| "scenario".into(), |stem| stem.to_string_lossy().into_owned());
        let read = |camera: &CameraFile| {
            let path = folder.join(&camera.picture);
            let wrong = |reason: String| refuse(format!("camera.picture: {}: {reason}", path.display()));
            let picture = std::fs::read(&path).map_err(|error| wrong(error.to_string()))?;
            match picture.len() {
                0..=PICTURE_BYTES => Ok(picture),
                bytes => Err(wrong(format!("{bytes} bytes; at most {PICTURE_BYTES} fit into a message over WebRTC"))),
            }
        };
        let picture = file.camera.as_ref().map(read).transpose()?;
        Ok(Self { name, file, lines, picture })
    }

    /// The loads, in order.
    pub fn loads(&self) -> Vec<Load> {
        let plan = &self.file.load;
        match plan.arrivals_per_minute {
            Some(rate) => vec![Load::ArrivalsPerMinute(rate)],
            None if plan.sessions.is_empty() => vec![Load::Sessions(1)],
            None => plan.sessions.iter().copied().map(Load::Sessions).collect(),
        }
    }

    /// Most sessions that may be there at the same time, for who starts a server; a guess where sessions arrive.
    pub fn most_sessions(&self) -> usize {
        let at_once = |load: Load| match load {
            Load::Sessions(count) => count,
            // Twice Little's law: arrivals come in clumps.
            Load::ArrivalsPerMinute(rate) => (2.0 * rate / 60.0 * self.seconds()).ceil() as usize + 1,
        };
        self.loads().into_iter().map(at_once).max().unwrap_or(1)
    }

    /// How long one conversation lasts at most, but for the last reply.
    pub fn seconds(&self) -> f64 {
        let entry = |(entry, line): (&UserEntry, &Option<Line>)| {
            let said = line.as_ref().map_or(0.0, Line::seconds);
            let waited = entry.interrupts.map_or(0.0, |interruption| interruption.wait_s);
            entry.repeat as f64 * (waited + said + entry.quiet_s + entry.quiet_jitter_s)
        };
        self.file.user.iter().zip(&self.lines).map(entry).sum()
    }

    /// How long sessions arrive.
    pub fn arrivals(&self) -> Duration {
        Duration::from_secs_f64(self.file.load.arrivals_s.unwrap_or(0.0))
    }
}

impl ScenarioFile {
    /// Reads and checks a scenario's text.
    ///
    /// # Errors
    /// What is wrong and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: Self = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        file.check()?;
        Ok(file)
    }

    fn check(&self) -> Result<(), String> {
        if self.user.is_empty() {
            return Err("user: nothing is said; write a [[user]] entry (one with only quiet_s is silence)".to_owned());
        }
        whole("runs", self.runs)?;
        seconds("warm_up_s", self.warm_up_s)?;
        self.load.check()?;
        if self.session.schedule.is_some() && self.user.iter().any(|entry| entry.interrupts.is_some()) {
            return Err("session.schedule: nothing interrupts a schedule; leave interrupts out".to_owned());
        }
        if let Some(camera) = &self.camera {
            seconds("camera.every_s", camera.every_s)?;
            if camera.every_s < LEAST_CAMERA_S {
                return Err(format!("camera.every_s: {} is below {LEAST_CAMERA_S} seconds", camera.every_s));
            }
        }
        for (index, entry) in self.user.iter().enumerate() {
            entry.check().map_err(|reason| format!("user[{index}].{reason}"))?;
        }
        for (index, gate) in self.gates.iter().enumerate() {
            gate.check().map_err(|reason| format!("gates[{index}].{reason}"))?;
            if let Some(sessions) = gate.sessions
                && !self.load.sessions.contains(&sessions)
            {
                return Err(format!("gates[{index}].sessions: {sessions} is no load of this scenario"));
            }
        }
        Ok(())
    }
}

impl LoadPlan {
    fn check(&self) -> Result<(), String> {
        for &count in &self.sessions {
            whole("load.sessions", count)?;
        }
        if let Some(twice) = self.sessions.iter().enumerate().find(|(at, count)| self.sessions[..*at].contains(count)) {
            return Err(format!("load.sessions: {} stands there twice", twice.1));
        }
        match (self.arrivals_per_minute, self.arrivals_s) {
            (None, None) => Ok(()),
            (Some(_), _) if !self.sessions.is_empty() => {
                Err("load: sessions is a closed loop and arrivals_per_minute an open one; keep one of them".to_owned())
            }
            (Some(rate), Some(length)) => {
                if !(rate > 0.0 && rate <= 60_000.0) {
                    return Err(format!("load.arrivals_per_minute: {rate} is not above 0 and at most 60000"));
                }
                seconds("load.arrivals_s", length)
            }
            (Some(_), None) => Err("load.arrivals_s: say for how long sessions arrive".to_owned()),
            (None, Some(_)) => Err("load.arrivals_per_minute: say how many sessions arrive in a minute".to_owned()),
        }
    }
}

impl UserEntry {
    fn check(&self) -> Result<(), String> {
        seconds("quiet_s", self.quiet_s)?;
        seconds("quiet_jitter_s", self.quiet_jitter_s)?;
        whole("repeat", self.repeat)?;
        let (from, to) = (self.from_s.unwrap_or(0.0), self.to_s.unwrap_or(LONGEST_S));
        seconds("from_s", from)?;
        seconds("to_s", to)?;
        if to <= from {
            return Err(format!("to_s: {to} is not behind from_s, {from}"));
        }
        if self.wav.is_none() && (self.from_s.is_some() || self.to_s.is_some() || self.interrupts.is_some()) {
            return Err("wav: missing; silence has no from_s, to_s or interrupts".to_owned());
        }
        if let Some(interruption) = self.interrupts {
            seconds("interrupts.after_s", interruption.after_s)?;
            seconds("interrupts.wait_s", interruption.wait_s)?;
            if interruption.wait_s <= interruption.after_s {
                return Err("interrupts.wait_s: it must be longer than after_s".to_owned());
            }
        }
        Ok(())
    }
}

fn seconds(key: &str, value: f64) -> Result<(), String> {
    match (0.0..=LONGEST_S).contains(&value) {
        true => Ok(()),
        false => Err(format!("{key}: {value} is not within 0 to {LONGEST_S} seconds")),
    }
}

fn whole(key: &str, value: usize) -> Result<(), String> {
    match (1..=MOST).contains(&value) {
        true => Ok(()),
        false => Err(format!("{key}: {value} is not within 1 to {MOST}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "about = \"x\"\n[[user]]\nquiet_s = 1.0\n";

    #[test]
    fn the_least_scenario_is_one_silent_session() {
        let file = ScenarioFile::parse(LEAST).unwrap();
        assert_eq!((file.runs, file.seed, file.user[0].repeat), (1, 0, 1));
        let scenario = Scenario { name: "x".into(), file, lines: vec![None], picture: None };
        assert_eq!(scenario.loads(), [Load::Sessions(1)]);
        assert_eq!((scenario.most_sessions(), scenario.seconds()), (1, 1.0));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        let cases = [
            ("about = \"x\"\nuser = []", "user: nothing is said"),
            ("about = \"x\"\nrun = 3\n[[user]]\nquiet_s = 1.0", "unknown field `run`"),
            ("about = \"x\"\nruns = 0\n[[user]]\nquiet_s = 1.0", "runs: 0 is not within 1"),
            ("about = \"x\"\n[[user]]\nquiet_s = -1.0", "user[0].quiet_s: -1"),
            ("about = \"x\"\n[[user]]\nquiet_s = nan", "user[0].quiet_s: NaN"),
            ("about = \"x\"\n[[user]]\nquiet_s = 1.0\nfrom_s = 1.0", "user[0].wav: missing"),
            ("about = \"x\"\n[[user]]\nwav = \"a\"\nquiet_s = 1.0\nfrom_s = 2.0\nto_s = 1.0", "user[0].to_s: 1"),
            ("about = \"x\"\n[session]\nschedule = { listen = 1 }\n[[user]]\nquiet_s = 1.0", "missing field `speak`"),
            (
                "about = \"x\"\n[session]\nschedule = { listen = 1, speak = 1, tokens = 1, codes = 1 }\n[[user]]\nwav = \"a\"\nquiet_s = 1.0\ninterrupts = { after_s = 0.1, wait_s = 1.0 }",
                "nothing interrupts a schedule",
            ),
            ("about = \"x\"\n[camera]\npicture = \"a\"\nevery_s = 0.0\n[[user]]\nquiet_s = 1.0", "camera.every_s: 0"),
            ("about = \"x\"\n[load]\nsessions = [8, 8]\n[[user]]\nquiet_s = 1.0", "load.sessions: 8 stands"),
            ("about = \"x\"\n[load]\nsessions = [1, 0]\n[[user]]\nquiet_s = 1.0", "load.sessions: 0"),
            ("about = \"x\"\n[load]\narrivals_per_minute = 3.0\n[[user]]\nquiet_s = 1.0", "load.arrivals_s"),
            (
                "about = \"x\"\n[load]\nsessions = [1]\narrivals_per_minute = 3.0\narrivals_s = 9.0\n[[user]]\nquiet_s = 1.0",
                "keep one of them",
            ),
            ("about = \"x\"\nphone = \"iso\"\n[[user]]\nquiet_s = 1.0", "unknown variant `iso`"),
        ];
        for (text, wanted) in cases {
            let reason = ScenarioFile::parse(text).unwrap_err();
            assert!(reason.contains(wanted), "{text}\n{reason}");
        }
    }

    #[test]
    fn gates_are_checked_with_the_scenario() {
        let gate = |text: &str| ScenarioFile::parse(&format!("{LEAST}[[gates]]\n{text}"));
        assert!(gate("metric = \"ttfb\"\nquantile = 0.95\nat_most_ms = 300").is_ok());
        assert!(gate("metric = \"missed_deadlines\"\nat_most = 0").is_ok());
        for (text, wanted) in [
            ("metric = \"tfb\"\nat_most_ms = 300", "unknown variant `tfb`"),
            ("metric = \"ttfb\"\nat_most = 300", "gates[0].at_most_ms"),
            ("metric = \"gaps\"\nat_most_ms = 300", "gates[0].at_most"),
            ("metric = \"ttfb\"\nquantile = 95\nat_most_ms = 300", "gates[0].quantile"),
            ("metric = \"ttfb\"\nat_most_ms = 300\nsessions = 7", "gates[0].sessions: 7 is no load"),
        ] {
            let reason = gate(text).unwrap_err();
            assert!(reason.contains(wanted), "{text}\n{reason}");
        }
    }

    #[test]
    fn the_projects_own_scenarios_can_be_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let mut names = Vec::new();
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        for path in files.filter(|path| path.extension().is_some_and(|ending| ending == "toml")) {
            let scenario = Scenario::read(&path).unwrap_or_else(|error| panic!("{error}"));
            assert!(!scenario.file.gates.is_empty(), "{} has no gate", scenario.name);
            names.push(scenario.name);
        }
        names.sort();
        assert_eq!(names, ["arrivals", "barge_in", "load", "long_talk", "omni", "phone", "short_questions", "silence"]);
    }
}
