//! How a new node becomes a member: one question on ALPN `plimsoll-join/1`, without a client
//! certificate.

use crate::ids::NodeId;
use crate::wire::{wire_choice, wire_struct};

wire_struct! {
    /// Asks to become a member.
    pub struct Join hides secret {
        /// Chosen at random and kept by the joiner: the same again gets the same node id.
        pub join_id: u128,
        /// The secret of the join token.
        pub secret: [u8; 32],
        /// Host and port where the joiner can be reached.
        pub address: String,
        /// What fails together with it.
        pub rack: Option<String>,
        /// Its share of the load in hundredths; 100 is one.
        pub weight_hundredths: u32,
        /// Its version.
        pub version: String,
        /// Lowest protocol version between nodes that it speaks.
        pub protocol_min: u16,
        /// Highest protocol version between nodes that it speaks.
        pub protocol_max: u16,
    }
}

wire_struct! {
    /// What a new member gets.
    pub struct Joined hides authority_key_pem {
        /// Its id.
        pub node: NodeId,
        /// The cluster.
        pub cluster_id: [u8; 16],
        /// The authority's certificate, PEM.
        pub authority_pem: String,
        /// The authority's key, PEM: the new member signs its own certificate, and any member can
        /// admit others.
        pub authority_key_pem: String,
        /// The members that are known.
        pub members: Vec<MemberAddress>,
    }
}

wire_struct! {
    /// A member and where it is dialed.
    pub struct MemberAddress {
        /// The member.
        pub node: NodeId,
        /// Host and port.
        pub address: String,
    }
}

wire_choice! {
    /// Why a joiner is refused.
    #[derive(thiserror::Error)]
    pub enum JoinRefusal as "refusal of a joiner" {
        /// The secret is wrong, says this node.
        #[error("node {0} does not know the join token; `plimsoll cluster token` prints the right one")]
        WrongToken(NodeId) = 0,
        /// The address is that of another member, this one.
        #[error("node {0} has this address already; choose another with --advertise")]
        AddressTaken(NodeId) = 1,
        /// The node cannot decide now, for this reason. May be asked again.
        #[error("the cluster cannot admit a node now: {0}")]
        Unavailable(String) = 2,
        /// The request cannot be carried out, for this reason.
        #[error("the join request is refused: {0}")]
        Invalid(String) = 3,
        /// The join id belongs to a node that was removed, this one.
        #[error("node {0} was removed from the cluster; start with an empty data directory")]
        Removed(NodeId) = 4,
    }
}

wire_choice! {
    /// The answer to [`Join`].
    pub enum JoinAnswer as "answer to a joiner" {
        /// Welcome.
        Joined(Joined) = 0,
        /// Not admitted.
        Refused(JoinRefusal) = 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_printed() {
        let joined = Joined {
            node: NodeId(2),
            cluster_id: [7; 16],
            authority_pem: "certificate".to_owned(),
            authority_key_pem: "the key itself".to_owned(),
            members: Vec::new(),
        };
        let printed = format!("{:?}", JoinAnswer::Joined(joined));
        assert!(!printed.contains("itself"), "{printed}");
        assert!(printed.contains("authority_key_pem: (secret)"), "{printed}");
        assert!(printed.contains("certificate"), "{printed}");
    }
}
