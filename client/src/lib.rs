//! The async Rust client of Plimsoll: producer, consumer, admin.
