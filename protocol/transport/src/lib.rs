//! Connections that carry Plimsoll frames: QUIC, TCP with TLS and plain TCP.
