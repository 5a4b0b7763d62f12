//! The messages of etcd that a lock needs: what is asked, and what is read of the answers.
//!
//! Source: `api/etcdserverpb/rpc.proto` and `server/etcdserver/api/v3lock/v3lockpb/v3lock.proto` of etcd 3.4 to
//! 3.6, whose numbers of fields these are.

use bytes::Bytes;

use super::wire::{Malformed, Writer, find};

/// A method of a service: where it is asked for.
pub(super) mod path {
    pub(in super::super) const STATUS: &str = "/etcdserverpb.Maintenance/Status";
    pub(in super::super) const LEASE_GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
    pub(in super::super) const LEASE_REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";
    pub(in super::super) const LEASE_KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
    pub(in super::super) const TXN: &str = "/etcdserverpb.KV/Txn";
    pub(in super::super) const DELETE_RANGE: &str = "/etcdserverpb.KV/DeleteRange";
    pub(in super::super) const LOCK: &str = "/v3lockpb.Lock/Lock";
    pub(in super::super) const UNLOCK: &str = "/v3lockpb.Lock/Unlock";
}

/// `StatusResponse.version`.
pub(super) fn version(status: &[u8]) -> Result<String, Malformed> {
    let version = find(status, 2)?.ok_or(Malformed)?;
    String::from_utf8(version.bytes().to_vec()).map_err(|_| Malformed)
}

/// A lease of so many seconds; etcd chooses its number.
pub(super) fn lease_grant(ttl_s: i64) -> Bytes {
    Writer::default().int(1, ttl_s).finish()
}

/// The number of a lease that was granted.
pub(super) fn granted_lease(response: &[u8]) -> Result<i64, Malformed> {
    Ok(find(response, 2)?.ok_or(Malformed)?.int())
}

/// One lease: to keep it alive, or to end it.
pub(super) fn lease(id: i64) -> Bytes {
    Writer::default().int(1, id).finish()
}

/// What is left of a lease that was kept alive, in seconds. 0: it is over.
pub(super) fn kept_ttl(response: &[u8]) -> Result<i64, Malformed> {
    Ok(find(response, 3)?.map_or(0, |ttl| ttl.int()))
}

/// `LockRequest`.
pub(super) fn lock(name: &str, lease: i64) -> Bytes {
    Writer::default().bytes(1, name.as_bytes()).int(2, lease).finish()
}

/// `LockResponse.key`: what is given to [`unlock`].
pub(super) fn locked_key(response: &[u8]) -> Result<Bytes, Malformed> {
    Ok(Bytes::copy_from_slice(find(response, 2)?.ok_or(Malformed)?.bytes()))
}

/// `UnlockRequest`, and `DeleteRangeRequest` of one key, which have the same bytes.
pub(super) fn key(key: &[u8]) -> Bytes {
    Writer::default().bytes(1, key).finish()
}

/// Whether a `DeleteRangeResponse` says that one key was deleted.
pub(super) fn is_deleted(response: &[u8]) -> Result<bool, Malformed> {
    Ok(find(response, 2)?.is_some_and(|deleted| deleted.int() == 1))
}

/// What `etcdctl lock` sends: "if this key is not there, put it under the lease, and say who is first below the
/// lock's name; else say who holds the key, and who is first".
///
/// Source: `clientv3/concurrency/mutex.go`, `tryAcquire`.
pub(super) fn mutex(name: &str, key: &[u8], lease: i64) -> Bytes {
    const TARGET_CREATE: i64 = 1;
    const ASCEND: i64 = 1;
    const BY_CREATE_REVISION: i64 = 2;
    let absent = Writer::default().int(2, TARGET_CREATE).bytes(3, key).present_int(5, 0);
    let put = Writer::default().bytes(1, key).int(3, lease);
    let get = Writer::default().bytes(1, key);
    let prefix = format!("{name}/");
    let mut behind = prefix.clone().into_bytes();
    // The first key that does not begin so.
    *behind.last_mut().expect("it ends with a slash") += 1;
    let owner = || {
        Writer::default()
            .bytes(1, prefix.as_bytes())
            .bytes(2, &behind)
            .int(3, 1)
            .int(5, ASCEND)
            .int(6, BY_CREATE_REVISION)
    };
    let (range, of_put) = (1, 2);
    let operation = |kind, message| Writer::default().message(kind, &message);
    Writer::default()
        .message(1, &absent)
        .message(2, &operation(of_put, put))
        .message(2, &operation(range, owner()))
        .message(3, &operation(range, get))
        .message(3, &operation(range, owner()))
        .finish()
}

/// The key that is first below the lock's name, by the answer to [`mutex`]: who holds the lock.
pub(super) fn owner(response: &[u8]) -> Result<&[u8], Malformed> {
    // The last of the responses, of which it is the `response_range`; its only pair's key.
    let last = find(response, 3)?.ok_or(Malformed)?;
    let range = find(last.bytes(), 1)?.ok_or(Malformed)?;
    let pair = find(range.bytes(), 2)?.ok_or(Malformed)?;
    Ok(find(pair.bytes(), 1)?.ok_or(Malformed)?.bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_bytes_of_their_definitions() {
        assert_eq!(lease_grant(60)[..], [0x08, 60]);
        assert_eq!(lease(300)[..], [0x08, 0xAC, 0x02]);
        assert_eq!(lock("a", 7)[..], [0x0A, 1, b'a', 0x10, 7]);
        assert_eq!(key(b"a/7")[..], [0x0A, 3, b'a', b'/', b'7']);
    }

    #[test]
    fn the_mutex_asks_what_etcdctl_asks() {
        let owner = b"\x0A\x02a/\x12\x02a0\x18\x01\x28\x01\x30\x02";
        let mut expected = Vec::new();
        // compare: create revision of "a/7" is 0
        expected.extend(b"\x0A\x09\x10\x01\x1A\x03a/7\x28\x00");
        // success: put "a/7" with lease 7, and the owner
        expected.extend(b"\x12\x09\x12\x07\x0A\x03a/7\x18\x07");
        expected.extend([0x12, 16, 0x0A, 14]);
        expected.extend(owner);
        // failure: get "a/7", and the owner
        expected.extend(b"\x1A\x07\x0A\x05\x0A\x03a/7");
        expected.extend([0x1A, 16, 0x0A, 14]);
        expected.extend(owner);
        assert_eq!(mutex("a", b"a/7", 7)[..], expected[..]);
    }

    #[test]
    fn answers_are_read_beside_their_headers() {
        let header = Writer::default().int(1, 99).int(3, 12);
        let granted = Writer::default().message(1, &header).int(2, 1 << 40).int(3, 60).finish();
        assert_eq!((granted_lease(&granted), kept_ttl(&granted)), (Ok(1 << 40), Ok(60)));
        assert_eq!(kept_ttl(&[]), Ok(0), "a lease that is over has no field");
        let locked = Writer::default().bytes(2, b"a/7").finish();
        assert_eq!(locked_key(&locked).unwrap(), b"a/7"[..]);
        assert_eq!(version(b"\x0A\x00\x12\x063.4.23").unwrap(), "3.4.23");
        assert_eq!(version(&[]), Err(Malformed));
        assert_eq!((is_deleted(&[0x10, 1]), is_deleted(&[])), (Ok(true), Ok(false)));
    }

    #[test]
    fn the_owner_is_the_first_key_of_the_last_response() {
        let pair = |key: &[u8]| Writer::default().bytes(1, key).int(2, 5);
        let range = |key: &[u8]| Writer::default().message(2, &pair(key)).int(4, 1);
        let put = Writer::default().message(2, &Writer::default());
        let response = Writer::default()
            .int(2, 1)
            .message(3, &put)
            .message(3, &Writer::default().message(1, &range(b"a/7")))
            .finish();
        assert_eq!(owner(&response), Ok(&b"a/7"[..]));
        assert_eq!(owner(&[]), Err(Malformed));
    }
}
