//! Append sessions and their credit.

use std::time::Duration;

use plimsoll_peers::{IncomingSession, PeerError, PeerLimits};
use plimsoll_protocol::ids::{GroupId, NodeId};
use plimsoll_protocol::peer::{Appended, NotHere};
use tokio::time::timeout;

use crate::cluster::{KINDS, Options, PATIENCE, append, cluster, id};

/// Answers every append with its last entry.
async fn echo(mut session: IncomingSession) -> u64 {
    let mut count = 0;
    while let Some(append) = session.recv().await {
        let last = append.entries.last().map(|(header, _)| header.log_id());
        if session.send(Appended::Ok(last)).is_err() {
            break;
        }
        count += 1;
    }
    count
}

#[tokio::test]
async fn ten_thousand_appends_are_answered_in_order() {
    for kind in KINDS {
        let mut nodes = cluster(2, &Options::new(kind)).await;
        let session = nodes[0].peers.session(NodeId(2), GroupId(5)).unwrap();
        let (mut sender, mut receiver) = session.split();
        let sending = tokio::spawn(async move {
            for index in 0..10_000 {
                sender.send(append(GroupId(5), index, 100)).await.unwrap();
            }
        });
        let (from, group, incoming) = nodes[1].next_session().await;
        assert_eq!((from, group), (NodeId(1), GroupId(5)));
        let echoing = tokio::spawn(echo(incoming));
        for index in 0..10_000 {
            let answer = timeout(PATIENCE, receiver.recv()).await.unwrap().unwrap();
            assert_eq!(answer, Appended::Ok(Some(id(index))), "{kind}");
        }
        sending.await.unwrap();
        drop(receiver);
        // The session is closed with its second half.
        assert_eq!(timeout(PATIENCE, echoing).await.unwrap().unwrap(), 10_000);
        assert_eq!(crate::cluster::statuses(&nodes[0])[&NodeId(2)].sessions, 0);
    }
}

#[tokio::test]
async fn entries_of_every_size_arrive_as_they_were() {
    for kind in KINDS {
        let mut nodes = cluster(2, &Options::new(kind)).await;
        let mut session = nodes[0].peers.session(NodeId(2), GroupId(5)).unwrap();
        let mut sent = append(GroupId(5), 0, 0);
        for (index, bytes) in [0, 1, 1023, 1024, 1 << 20, 3, 70_000].into_iter().enumerate() {
            sent.entries.push(crate::cluster::entry(index as u64 + 1, bytes));
        }
        session.send(sent.clone()).await.unwrap();
        let (_, _, mut incoming) = nodes[1].next_session().await;
        let got = timeout(PATIENCE, incoming.recv()).await.unwrap().unwrap();
        assert_eq!(got, sent, "{kind}");
        incoming.send(Appended::HigherVote(sent.vote)).unwrap();
        assert_eq!(session.recv().await.unwrap(), Appended::HigherVote(sent.vote));
    }
}

#[tokio::test]
async fn a_session_sends_no_more_than_its_requests() {
    for kind in KINDS {
        let mut nodes = cluster(2, &Options::new(kind)).await;
        let mut session = nodes[0].peers.session(NodeId(2), GroupId(1)).unwrap();
        for index in 0..64 {
            session.send(append(GroupId(1), index, 10)).await.unwrap();
        }
        let (_, _, mut incoming) = nodes[1].next_session().await;
        for _ in 0..64 {
            timeout(PATIENCE, incoming.recv()).await.unwrap().unwrap();
        }
        // The receiver holds all of them and answers none: the next one has to wait.
        let (mut sender, mut receiver) = session.split();
        let next = sender.send(append(GroupId(1), 64, 10));
        tokio::pin!(next);
        assert!(futures_util::poll!(&mut next).is_pending());
        // Another session of the same lane is not held up by it.
        let mut other = nodes[0].peers.session(NodeId(2), GroupId(5)).unwrap();
        other.send(append(GroupId(5), 0, 10)).await.unwrap();
        let (_, _, mut other_incoming) = nodes[1].next_session().await;
        timeout(PATIENCE, other_incoming.recv()).await.unwrap().unwrap();
        other_incoming.send(Appended::Ok(None)).unwrap();
        timeout(PATIENCE, other.recv()).await.unwrap().unwrap();
        assert!(futures_util::poll!(&mut next).is_pending());
        // One answer lets one go on.
        incoming.send(Appended::Ok(Some(id(0)))).unwrap();
        timeout(PATIENCE, next).await.unwrap().unwrap();
        assert_eq!(receiver.recv().await.unwrap(), Appended::Ok(Some(id(0))));
    }
}

#[tokio::test]
async fn bytes_of_a_session_and_of_the_link_are_bounded() {
    let mut options = Options::new(KINDS[0]);
    options.limits = PeerLimits {
        session_bytes_max: 100_000,
        link_append_bytes_max: 150_000,
        ..PeerLimits::default()
    };
    let mut nodes = cluster(2, &options).await;
    let mut session = nodes[0].peers.session(NodeId(2), GroupId(1)).unwrap();
    session.send(append(GroupId(1), 0, 60_000)).await.unwrap();
    {
        let second = session.send(append(GroupId(1), 1, 60_000));
        tokio::pin!(second);
        assert!(futures_util::poll!(&mut second).is_pending());
    }
    let (_, _, mut incoming) = nodes[1].next_session().await;
    timeout(PATIENCE, incoming.recv()).await.unwrap().unwrap();
    // Another session has credit of its own, and the link has enough for it, but not for a third.
    let mut other = nodes[0].peers.session(NodeId(2), GroupId(2)).unwrap();
    other.send(append(GroupId(2), 0, 60_000)).await.unwrap();
    let mut third = nodes[0].peers.session(NodeId(2), GroupId(3)).unwrap();
    let third = third.send(append(GroupId(3), 0, 60_000));
    tokio::pin!(third);
    assert!(futures_util::poll!(&mut third).is_pending());
    incoming.send(Appended::Ok(None)).unwrap();
    timeout(PATIENCE, &mut third).await.unwrap().unwrap();
    assert_eq!(session.recv().await.unwrap(), Appended::Ok(None));
    // A single frame beyond the credit goes alone.
    let (_, _, other_incoming) = nodes[1].next_session().await;
    let (_, _, third_incoming) = nodes[1].next_session().await;
    drop((other_incoming, third_incoming));
    session.send(append(GroupId(1), 1, 1 << 20)).await.unwrap();
    let large = timeout(PATIENCE, incoming.recv()).await.unwrap().unwrap();
    assert_eq!(large.entries[0].1.len(), 1 << 20);
}

#[tokio::test]
async fn a_receiver_that_goes_is_not_here() {
    for kind in KINDS {
        let mut nodes = cluster(2, &Options::new(kind)).await;
        let mut session = nodes[0].peers.session(NodeId(2), GroupId(1)).unwrap();
        session.send(append(GroupId(1), 0, 10)).await.unwrap();
        session.send(append(GroupId(1), 1, 10)).await.unwrap();
        let (_, _, mut incoming) = nodes[1].next_session().await;
        timeout(PATIENCE, incoming.recv()).await.unwrap().unwrap();
        incoming.send(Appended::Ok(Some(id(0)))).unwrap();
        assert_eq!(session.recv().await.unwrap(), Appended::Ok(Some(id(0))));
        drop(incoming);
        let gone = Appended::NotHere(NotHere::NoSession);
        assert_eq!(timeout(PATIENCE, session.recv()).await.unwrap().unwrap(), gone);
        // It stays so on this session; a new one begins anew. No credit is lost by it.
        for index in 0..200 {
            session.send(append(GroupId(1), index, 10)).await.unwrap();
            assert_eq!(timeout(PATIENCE, session.recv()).await.unwrap().unwrap(), gone);
        }
        let mut anew = nodes[0].peers.session(NodeId(2), GroupId(1)).unwrap();
        anew.send(append(GroupId(1), 2, 10)).await.unwrap();
        let (_, _, incoming) = nodes[1].next_session().await;
        let echoing = tokio::spawn(echo(incoming));
        let answer = timeout(PATIENCE, anew.recv()).await.unwrap().unwrap();
        assert_eq!(answer, Appended::Ok(Some(id(2))));
        drop(anew);
        assert_eq!(timeout(PATIENCE, echoing).await.unwrap().unwrap(), 1);
    }
}

#[tokio::test]
async fn one_answer_may_settle_several() {
    let mut nodes = cluster(2, &Options::new(KINDS[0])).await;
    let mut session = nodes[0].peers.session(NodeId(2), GroupId(1)).unwrap();
    for round in 0..10 {
        for index in 0..64 {
            let send = session.send(append(GroupId(1), round * 64 + index, 10));
            timeout(PATIENCE, send).await.unwrap().unwrap();
        }
        if round == 0 {
            let (_, _, incoming) = nodes[1].next_session().await;
            let (mut appends, mut answers) = incoming.split();
            tokio::spawn(async move {
                let mut count = 0;
                while let Some(append) = appends.recv().await {
                    count += 1;
                    if count % 64 == 0 {
                        let last = append.entries.last().map(|(header, _)| header.log_id());
                        answers.send_for(64, Appended::Ok(last)).unwrap();
                    }
                }
            });
        }
        let answer = timeout(PATIENCE, session.recv()).await.unwrap().unwrap();
        assert_eq!(answer, Appended::Ok(Some(id(round * 64 + 63))));
    }
}

#[tokio::test]
async fn sessions_are_bounded() {
    let mut options = Options::new(KINDS[0]);
    options.limits.sessions_max = 3;
    let nodes = cluster(2, &options).await;
    let mut sessions: Vec<_> =
        (0..3).map(|group| nodes[0].peers.session(NodeId(2), GroupId(group)).unwrap()).collect();
    let error = nodes[0].peers.session(NodeId(2), GroupId(9)).unwrap_err();
    assert_eq!(error, PeerError::TooManySessions { node: NodeId(2), limit: 3 });
    sessions.pop();
    nodes[0].peers.session(NodeId(2), GroupId(9)).unwrap();
}

#[tokio::test]
async fn a_closed_session_returns_the_credit_of_the_link() {
    let mut options = Options::new(KINDS[0]);
    options.limits.session_bytes_max = 100_000;
    options.limits.link_append_bytes_max = 100_000;
    let mut nodes = cluster(2, &options).await;
    for round in 0..20 {
        let mut session = nodes[0].peers.session(NodeId(2), GroupId(round)).unwrap();
        let send = session.send(append(GroupId(round), 0, 90_000));
        timeout(PATIENCE, send).await.unwrap().unwrap();
        let (_, _, mut incoming) = nodes[1].next_session().await;
        if round % 2 == 0 {
            timeout(PATIENCE, incoming.recv()).await.unwrap().unwrap();
        }
        drop(session);
        // What the sender no longer wants is not handed out; the credit comes back when it is gone.
        let rest = async { while incoming.recv().await.is_some() {} };
        timeout(Duration::from_secs(10), rest).await.unwrap();
    }
}
