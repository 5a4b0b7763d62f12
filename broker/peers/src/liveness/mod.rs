//! Who is alive: the rules ([`Table`], pure) and what others see of them ([`View`]).

mod view;

pub use view::{LivenessEvent, View};
