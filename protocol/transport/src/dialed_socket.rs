//! The UDP socket under a dialed QUIC connection: connected, so that the kernel says when the
//! peer's port is closed (ICMP), and one that passes this on.
//!
//! quinn's own socket never sees it: an error state alone does not make a socket readable, and an
//! error of `sendmsg` is swallowed. Without it a peer that was killed is noticed only when the
//! idle timeout has passed, and dialing a node that is not running takes the whole timeout.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::task::AbortHandle;

/// Serves one connection: it keeps one waker for readers and one for writers.
#[derive(Debug)]
pub(crate) struct DialedSocket {
    io: Arc<UdpSocket>,
    state: UdpSocketState,
    refusal: Arc<Refusal>,
    watching: AbortHandle,
}

/// Set once the kernel has reported the peer's port as closed.
#[derive(Debug, Default)]
struct Refusal {
    seen: AtomicBool,
    reader: Mutex<Option<Waker>>,
}

impl DialedSocket {
    pub(crate) fn new(socket: std::net::UdpSocket) -> io::Result<DialedSocket> {
        let state = UdpSocketState::new((&socket).into())?;
        let io = Arc::new(UdpSocket::from_std(socket)?);
        let refusal = Arc::new(Refusal::default());
        let watching = tokio::spawn(watch(Arc::clone(&io), Arc::clone(&refusal))).abort_handle();
        Ok(DialedSocket { io, state, refusal, watching })
    }
}

impl Drop for DialedSocket {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

async fn watch(io: Arc<UdpSocket>, refusal: Arc<Refusal>) {
    while io.ready(Interest::ERROR).await.is_ok() {
        // Takes the readiness back before the error is looked at, so that none is missed.
        let _ = io.try_io(Interest::ERROR, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        let Ok(Some(error)) = io.take_error() else { continue };
        if error.kind() == io::ErrorKind::ConnectionRefused {
            refusal.set();
            return;
        }
    }
}

impl Refusal {
    fn set(&self) {
        self.seen.store(true, Ordering::Release);
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    fn poll(&self, cx: &Context<'_>) -> io::Result<()> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        if self.seen.load(Ordering::Acquire) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        if !reader.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *reader = Some(cx.waker().clone());
        }
        Ok(())
    }
}

impl AsyncUdpSocket for DialedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(SendReadiness(Arc::clone(&self.io)))
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.io.try_io(Interest::WRITABLE, || {
            match self.state.try_send((&*self.io).into(), transmit) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
                Err(error) => {
                    if error.kind() == io::ErrorKind::ConnectionRefused {
                        self.refusal.set();
                    }
                    // Any other packet that could not be sent counts as lost, which QUIC mends; a
                    // probe of the MTU is lost on purpose.
                    Ok(())
                }
                Ok(()) => Ok(()),
            }
        })
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            if self.io.poll_recv_ready(cx)?.is_pending() {
                self.refusal.poll(cx)?;
                return Poll::Pending;
            }
            let received = self
                .io
                .try_io(Interest::READABLE, || self.state.recv((&*self.io).into(), bufs, meta));
            match received {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }
}

/// Tells quinn's connection task when the socket takes packets again.
#[derive(Debug)]
struct SendReadiness(Arc<UdpSocket>);

impl UdpPoller for SendReadiness {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.0.poll_send_ready(cx))?;
        Poll::Ready(Ok(()))
    }
}
