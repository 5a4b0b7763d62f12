//! Who is alive: the rules ([`Table`], pure) and what others see of them ([`View`]).

mod table;
mod view;

pub use table::{Own, Table};
pub use view::{LivenessEvent, View};

#[cfg(test)]
mod tests;
