//! The one hash of this crate: 64 bits, the same on every platform and in every version.
//!
//! A node that hashes otherwise would see other owners, so the function can never change; tests pin
//! its output. It is the output step of SplitMix64, applied once per word. Not for hostile input:
//! ids are given by the cluster itself.
//!
//! Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.

/// The odd constant nearest to 2^64 divided by the golden ratio.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// What is hashed, so that node 7 and partition 7 do not share a point.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Domain {
    /// `words`: node id, number of the virtual node.
    VirtualNode = 1,
    /// `words`: group id, 0.
    Partition = 2,
}

/// Hashes two words of one domain.
pub(crate) fn hash(domain: Domain, first: u64, second: u64) -> u64 {
    let begin = mix((domain as u64).wrapping_add(GAMMA));
    let middle = mix((begin ^ first).wrapping_add(GAMMA));
    mix((middle ^ second).wrapping_add(GAMMA))
}

/// The output step of SplitMix64: a bijection of 64-bit words in which every input bit matters.
fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mix_is_the_output_step_of_splitmix64() {
        // The first two numbers of the published generator with seed 0.
        assert_eq!(mix(GAMMA), 0xe220_a839_7b1d_cdaf);
        assert_eq!(mix(GAMMA.wrapping_mul(2)), 0x6e78_9e6a_a1b9_65f4);
    }

    #[test]
    fn domains_and_word_order_matter() {
        let base = hash(Domain::VirtualNode, 7, 3);
        assert_ne!(base, hash(Domain::Partition, 7, 3));
        assert_ne!(base, hash(Domain::VirtualNode, 3, 7));
    }
}
