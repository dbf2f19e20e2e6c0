//! Whole conversations on virtual time as files to read: `tests/scripts/*.txt`. Each holds a title, what the server and its
//! model are, what the clients do, and, behind the second line of dashes, everything that they were told, with the time in ms.
//!
//! `UPDATE=1 cargo test -p duologue-tests --test scripts` writes the last part anew; read the difference before you keep it.
//!
//! ```text
//! server  slots=1 queue=2 voice=-30       places, queue, level in dBFS above which a sound is a voice (none: no detector)
//! model   speak one, listen, end two      what each unit does; behind the end it listens
//! ann opens                               waits in the queue if she must
//! ann is silent 1500 / speaks 800         into her microphone, ms
//! ann waits 500                           microphone off
//! ann pauses 2000 / resumes / interrupts / closes / drops / returns
//! server drains 5000
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use duologue_session::barge_in::BargeInConfig;
use duologue_tests::root;
use duologue_tests::scripted::{INPUT_RATE, Plan, ScriptedBackend};
use duologue_transport::pacer::Pace;
use duologue_transport::{
    CloseCause, Limits, Sequenced, SessionCommand, SessionEvent, SessionLink, SessionManager, SessionRequest, Wire,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

const WIRE: Wire =
    Wire { name: "test", pace: Some(Pace { packet: Duration::from_millis(100), lead: Duration::from_millis(200) }) };
/// What a microphone sends at a time, in ms.
const MIC_MS: u64 = 20;
const LOUD: f32 = 0.5;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What everybody was told, with its time and who it was: in the order of time, and of names within a millisecond, where only
/// the order of one client's own lines means something.
#[derive(Clone)]
struct Transcript {
    began: Instant,
    lines: Arc<Mutex<Vec<(u128, String, String)>>>,
}

impl Transcript {
    fn note(&self, name: &str, line: &str) {
        let line = (self.began.elapsed().as_millis(), name.to_owned(), line.to_owned());
        self.lines.lock().expect("nobody panics with it").push(line);
    }

    fn text(&self) -> String {
        let mut lines = self.lines.lock().expect("nobody panics with it");
        lines.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        lines.iter().map(|(at, name, line)| format!("{at:>6} {name} {line}\n")).collect()
    }
}

/// A client's line to its session, and what it needs to come back.
#[derive(Default)]
struct Line {
    commands: Option<mpsc::Sender<SessionCommand>>,
    token: String,
    last: Option<u64>,
}

struct Client {
    line: Arc<Mutex<Line>>,
    task: JoinHandle<()>,
}

impl Client {
    async fn send(&self, command: SessionCommand) {
        let commands = self.line.lock().expect("nobody panics with it").commands.clone();
        if let Some(commands) = commands {
            // What is said to a session that is over is lost, as on a real line.
            drop(commands.send(command).await);
        }
    }
}

/// Waits in the queue, then listens until the session ends.
async fn visit(manager: SessionManager, name: String, line: Arc<Mutex<Line>>, transcript: Transcript) {
    let mut visitor = match manager.enter(&name) {
        Ok(visitor) => visitor,
        Err(refusal) => return transcript.note(&name, &format!("is refused: {refusal}")),
    };
    loop {
        match visitor.place() {
            Ok(None) => break,
            Ok(Some(place)) => {
                transcript.note(&name, &format!("waits as {} of {}", place.position, place.queue_length))
            }
            Err(refusal) => return transcript.note(&name, &format!("is refused: {refusal}")),
        }
        // The place is looked at above.
        drop(visitor.wait().await);
    }
    let link = visitor.open(&SessionRequest::default(), WIRE, None).expect("the script takes everybody");
    listen(link, name, line, transcript).await;
}

async fn listen(mut link: SessionLink, name: String, line: Arc<Mutex<Line>>, transcript: Transcript) {
    {
        let mut line = line.lock().expect("nobody panics with it");
        line.commands = Some(link.commands.clone());
        line.token.clone_from(&link.resume_token);
    }
    // The session must see its line die with this task only.
    drop(link.commands);
    let mut sound = Sound::default();
    while let Some(Sequenced { seq, event }) = link.events.recv().await {
        line.lock().expect("nobody panics with it").last = Some(seq);
        if let SessionEvent::Audio { turn, start, samples } = &event {
            if let Some(gap) = sound.take(*turn, *start, samples.len() as u64) {
                transcript.note(&name, &gap);
            }
            continue;
        }
        if let Some(line) = words(&event) {
            if let Some(heard) = sound.done() {
                transcript.note(&name, &heard);
            }
            transcript.note(&name, &line);
        }
    }
    if let Some(heard) = sound.done() {
        transcript.note(&name, &heard);
    }
    transcript.note(&name, "is alone");
}

/// Audio that follows on itself is one line, at its end.
#[derive(Default)]
struct Sound {
    playing: Option<(u32, u64, u64)>,
}

impl Sound {
    fn take(&mut self, turn: u32, start: u64, samples: u64) -> Option<String> {
        match &mut self.playing {
            Some((playing, _, end)) if *playing == turn && *end == start => {
                *end += samples;
                None
            }
            _ => {
                let before = self.done();
                self.playing = Some((turn, start, start + samples));
                before
            }
        }
    }

    fn done(&mut self) -> Option<String> {
        let (turn, from, to) = self.playing.take()?;
        Some(format!("has audio of reply {turn}, {} to {} ms", from / 24, to / 24))
    }
}

/// An event in words; none for what the others tell already.
fn words(event: &SessionEvent) -> Option<String> {
    Some(match event {
        SessionEvent::Unit(unit) if unit.stale => format!("unit {} stale", unit.unit),
        SessionEvent::Unit(unit) if unit.speaks => format!("unit {} says \"{}\"", unit.unit, unit.text),
        SessionEvent::Unit(_) | SessionEvent::Speech(_) | SessionEvent::Audio { .. } => return None,
        SessionEvent::Ready(_) => "ready".to_owned(),
        SessionEvent::TurnBegan { turn } => format!("reply {turn} begins"),
        SessionEvent::TurnDone { turn } => format!("reply {turn} done"),
        SessionEvent::Flush { turn, cause } => format!("flush before reply {turn}, by {cause:?}"),
        SessionEvent::Truncated { turn, heard, .. } => {
            format!("reply {turn} was heard for {} ms", heard.as_millis())
        }
        SessionEvent::Hold { turn } => format!("hold of reply {turn}"),
        SessionEvent::Unhold { turn } => format!("unhold of reply {turn}"),
        SessionEvent::Voice { speaking, .. } => format!("voice {}", if *speaking { "begins" } else { "ends" }),
        SessionEvent::Paused { timeout } => format!("paused for {} ms", timeout.as_millis()),
        SessionEvent::Resumed => "resumed".to_owned(),
        SessionEvent::UnitDropped => "unit dropped".to_owned(),
        SessionEvent::FrameDropped => "picture dropped".to_owned(),
        SessionEvent::TextDropped => "typed question dropped".to_owned(),
        SessionEvent::Draining(limit) => format!("draining within {} ms", limit.as_millis()),
        SessionEvent::Closed(cause) => format!("closed: {}", cause.detail()),
    })
}

/// One of the files.
struct Script {
    path: PathBuf,
    /// Title, server and model.
    head: String,
    steps: String,
    wanted: String,
}

impl Script {
    fn read(path: PathBuf) -> Self {
        let text = fs::read_to_string(&path).expect("a script");
        let parts: Vec<&str> = text.split("---\n").collect();
        let [head, steps, ..] = parts[..] else { panic!("{}: no line of dashes", path.display()) };
        let wanted = parts.get(2).copied().unwrap_or_default().to_owned();
        Self { head: head.to_owned(), steps: steps.to_owned(), wanted, path }
    }

    fn setting(&self, section: &str) -> &str {
        self.head.lines().find_map(|line| line.strip_prefix(section)).unwrap_or_default().trim()
    }

    fn manager(&self) -> SessionManager {
        let settings: BTreeMap<&str, &str> =
            self.setting("server ").split_whitespace().filter_map(|setting| setting.split_once('=')).collect();
        let number = |name: &str| settings.get(name).map(|value| value.parse::<i32>().expect("a number"));
        let plans: Vec<Plan> = self.setting("model ").split(", ").filter_map(plan).collect();
        let mut backend = ScriptedBackend::new(number("slots").unwrap_or(1) as usize, &plans);
        if let Some(level) = number("voice") {
            backend = backend.voice_above(level as f32);
        }
        let limits = Limits { queue: number("queue").unwrap_or(1) as usize, ..Limits::default() };
        SessionManager::new(Arc::new(backend), limits, BargeInConfig::default()).expect("the default rules are valid")
    }

    /// Everything that was told.
    async fn play(&self) -> String {
        let manager = self.manager();
        let transcript = Transcript { began: Instant::now(), lines: Arc::default() };
        let mut clients: BTreeMap<String, Client> = BTreeMap::new();
        for step in self.steps.lines().filter(|line| !line.trim().is_empty()) {
            let words: Vec<&str> = step.split_whitespace().collect();
            let number =
                || words.last().and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("no time: {step}"));
            let (name, verb) = (words[0], words[1]);
            let client = clients.get(name);
            let known = || client.unwrap_or_else(|| panic!("nobody is named {name}"));
            match verb {
                "drains" => {
                    let (manager, limit) = (manager.clone(), ms(number()));
                    tokio::spawn(async move { manager.drain(limit).await });
                    // Whoever waits hears of it first.
                    sleep(ms(1)).await;
                }
                "opens" => {
                    let line = Arc::<Mutex<Line>>::default();
                    let visit = visit(manager.clone(), name.to_owned(), line.clone(), transcript.clone());
                    clients.insert(name.to_owned(), Client { line, task: tokio::spawn(visit) });
                    sleep(ms(1)).await;
                }
                "returns" => {
                    let (token, last) = {
                        let line = known().line.lock().expect("nobody panics with it");
                        (line.token.clone(), line.last)
                    };
                    match manager.resume(&token, last, WIRE).await {
                        Ok(link) => {
                            let line = known().line.clone();
                            let task = tokio::spawn(listen(link, name.to_owned(), line.clone(), transcript.clone()));
                            clients.insert(name.to_owned(), Client { line, task });
                        }
                        Err(error) => transcript.note(name, &format!("is refused: {error}")),
                    }
                }
                "drops" => {
                    known().line.lock().expect("nobody panics with it").commands = None;
                    known().task.abort();
                    transcript.note(name, "loses the connection");
                }
                "is" | "speaks" => {
                    let level = if verb == "is" { 0.0 } else { LOUD };
                    for _ in 0..number() / MIC_MS {
                        sleep(ms(MIC_MS)).await;
                        let samples = INPUT_RATE as usize * MIC_MS as usize / 1000;
                        known().send(SessionCommand::Audio(vec![level; samples])).await;
                    }
                }
                "waits" => sleep(ms(number())).await,
                "pauses" => known().send(SessionCommand::Pause(ms(number()))).await,
                "resumes" => known().send(SessionCommand::Resume).await,
                "interrupts" => known().send(SessionCommand::Interrupt).await,
                "closes" => known().send(SessionCommand::Close(CloseCause::Requested)).await,
                _ => panic!("{}: {step:?} is no step", self.path.display()),
            }
        }
        sleep(ms(1)).await;
        transcript.text()
    }
}

fn plan(text: &str) -> Option<Plan> {
    // A test's words may live as long as the test.
    let word = |word: &str| &*word.to_owned().leak();
    match text.trim().split_once(' ') {
        None => match text.trim() {
            "" => None,
            "listen" => Some(Plan::Listen),
            "fail" => Some(Plan::Fail),
            other => panic!("{other} is no plan"),
        },
        Some(("speak", said)) => Some(Plan::Speak(word(said))),
        Some(("end", said)) => Some(Plan::End(word(said))),
        Some(_) => panic!("{text} is no plan"),
    }
}

#[tokio::test(start_paused = true)]
async fn everybody_is_told_what_the_scripts_say() {
    let entries = fs::read_dir(root().join("tests/scripts")).expect("the folder of scripts");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    let mut different = Vec::new();
    for path in paths {
        let script = Script::read(path);
        let got = script.play().await;
        if got == script.wanted {
            continue;
        }
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&script.path, format!("{}---\n{}---\n{got}", script.head, script.steps)).expect("it is written");
        } else {
            different.push(format!("{}\nwanted:\n{}\ngot:\n{got}", script.path.display(), script.wanted));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}
