//! The driver of one session: a task that owns the session core, the backend's session, the pacer and the voice detector.
//!
//! A wire differs only in how it turns bytes into [`SessionCommand`]s and [`SessionEvent`]s into bytes; everything that
//! happens to a conversation happens here, once for all wires.

mod events;
mod link;
mod listener;
mod parts;
mod play_head;
mod run;
pub mod spans;
mod turns;

pub use events::{CloseCause, FlushCause, Output, Sequenced, SessionCommand, SessionEvent, SpeechEvent, UnitEvent};
pub use link::EVENT_CAPACITY;
pub use listener::Listener;
pub use parts::{DriverLimits, DriverParts};
pub use run::Driver;

/// Commands that may wait for a driver. A wire that finds it full waits, so a client that sends faster than the driver
/// takes is slowed by its own socket.
pub const COMMAND_CAPACITY: usize = 64;
