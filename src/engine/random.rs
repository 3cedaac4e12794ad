//! The engine's only source of chance: a stream from one seed (SHA-256 in counter mode), so that a run of the
//! simulation replays exactly and a token cannot be guessed.
//! Must not know: what is drawn.

use data_encoding::HEXLOWER;

use crate::secret::sha256;

/// A stream of bytes that only the seed's owner can foretell.
#[derive(Debug)]
pub struct Random {
    seed: [u8; 32],
    counter: u64,
}

impl Random {
    /// The stream of `seed`.
    pub fn new(seed: [u8; 32]) -> Random {
        Random { seed, counter: 0 }
    }

    /// 128 bits in hex: a run's secret.
    pub fn token(&mut self) -> String {
        HEXLOWER.encode(&self.block()[..16])
    }

    /// A number below `bound`; 0 for a bound of 0. The bias is below 2^-32 for any list of machines.
    pub fn below(&mut self, bound: usize) -> usize {
        let block = self.block();
        let mut eight = [0u8; 8];
        eight.copy_from_slice(&block[..8]);
        (u64::from_le_bytes(eight) % bound.max(1) as u64) as usize
    }

    /// Puts `items` into an order by chance (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    fn block(&mut self) -> [u8; 32] {
        let mut input = [0; 40];
        input[..32].copy_from_slice(&self.seed);
        input[32..].copy_from_slice(&self.counter.to_le_bytes());
        self.counter += 1;
        sha256(input)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_stream_and_a_shuffle_loses_nothing() {
        let (mut one, mut two) = (Random::new([7; 32]), Random::new([7; 32]));
        assert_eq!(one.token(), two.token());
        assert_ne!(one.token(), Random::new([8; 32]).token());
        let mut items: Vec<u32> = (0..50).collect();
        one.shuffle(&mut items);
        assert_ne!(items, (0..50).collect::<Vec<_>>());
        items.sort();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
    }
}
