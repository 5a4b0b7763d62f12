//! Two ends of a connection in one process, over the loopback interface, in all three kinds.

mod backpressure;
mod frames;
mod lifecycle;
mod pair;
mod refusals;
