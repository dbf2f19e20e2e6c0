//! One table per direction of a wire: from the table come the enum, its JSON form and its reader.

/// Makes an event enum from a table `"wire name" => Variant(Payload)`.
///
/// Serialises as serde's internally tagged form. Reading goes through `read`, which picks the payload by name first and then
/// reads the text straight into it: serde's own reader of tagged enums would first build a tree of the whole message, many
/// times its size, and could not say where in it an error is.
macro_rules! wire_events {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $( $(#[$doc:meta])* $tag:literal => $variant:ident($payload:ty), )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize)]
        #[serde(tag = "type")]
        pub enum $name {
            $( $(#[$doc])* #[serde(rename = $tag)] $variant($payload), )*
        }

        impl $name {
            /// Every `type` of this direction, in the order of the table.
            pub const TYPES: &'static [&'static str] = &[$($tag),*];

            /// The `type` of this event on the wire.
            pub fn type_name(&self) -> &'static str {
                match self {
                    $( Self::$variant(_) => $tag, )*
                }
            }

            /// Reads the event named `kind` from the whole message; `None` when the table has no such name.
            fn read(kind: &str, text: &str) -> Option<Result<Self, crate::wire::WireError>> {
                match kind {
                    $( $tag => Some(crate::wire::read_body::<$payload>(text).map(Self::$variant)), )*
                    _ => None,
                }
            }
        }
    };
}
