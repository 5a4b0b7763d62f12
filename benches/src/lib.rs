//! The benchmark harness behind plimsoll bench.
