//! A byte budget for output between socket and disk: a chunk takes its size before it is forwarded, and returns it when
//! it is dropped, wherever that happens.
//! Must not know: who holds chunks.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that may still be taken.
#[derive(Debug)]
pub struct Budget {
    left: AtomicUsize,
}

/// Bytes of output, with the part of the budget that they hold.
pub struct Chunk {
    bytes: Vec<u8>,
    held: Option<(Arc<Budget>, usize)>,
}

impl Budget {
    /// A budget of that many bytes.
    pub fn new(bytes: usize) -> Arc<Budget> {
        Arc::new(Budget {
            left: AtomicUsize::new(bytes),
        })
    }

    /// Takes the size of `bytes` from the budget. Returns the bytes if not enough is left.
    pub fn take(self: &Arc<Budget>, bytes: Vec<u8>) -> Result<Chunk, Vec<u8>> {
        let size = bytes.len();
        let taken = self
            .left
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(size));
        match taken {
            Ok(_) => Ok(Chunk {
                bytes,
                held: Some((self.clone(), size)),
            }),
            Err(_) => Err(bytes),
        }
    }

    /// Bytes left.
    pub fn left(&self) -> usize {
        self.left.load(Ordering::Acquire)
    }
}

impl Chunk {
    /// Bytes of the daemon itself (notices), which take nothing from a budget.
    pub fn free(bytes: Vec<u8>) -> Chunk {
        Chunk { bytes, held: None }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Splits off everything from `at` on. Both parts keep their share of the budget.
    pub fn split_off(&mut self, at: usize) -> Chunk {
        let bytes = self.bytes.split_off(at);
        // the capacity must not exceed its share of the budget
        self.bytes.shrink_to_fit();
        let held = self.held.as_mut().map(|(budget, size)| {
            let moved = bytes.len().min(*size);
            *size -= moved;
            (budget.clone(), moved)
        });
        Chunk { bytes, held }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if let Some((budget, size)) = self.held.take() {
            budget.left.fetch_add(size, Ordering::AcqRel);
        }
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({} bytes)", self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back_with_the_last_part() {
        let budget = Budget::new(10);
        let mut chunk = budget.take(vec![1; 8]).unwrap();
        assert!(budget.take(vec![1; 3]).is_err());
        let tail = chunk.split_off(3);
        drop(chunk);
        assert_eq!(budget.left(), 5);
        drop(tail);
        assert_eq!(budget.left(), 10);
    }
}
