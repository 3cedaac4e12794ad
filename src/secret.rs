//! Secrets: their SHA-256, and a comparison whose duration discloses nothing.
//! Must not know: whose secrets they are.

use ring::digest;
use subtle::ConstantTimeEq;

/// The SHA-256 of `bytes`.
pub fn sha256(bytes: impl AsRef<[u8]>) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes.as_ref()).as_ref());
    hash
}

/// Whether both are the same. How long it takes depends on their lengths alone.
pub fn same(one: impl AsRef<[u8]>, two: impl AsRef<[u8]>) -> bool {
    one.as_ref().ct_eq(two.as_ref()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_itself_and_no_other() {
        assert!(same("token", "token") && same("", ""));
        for other in ["tokem", "toke", "tokens", "", "Token"] {
            assert!(!same("token", other), "{other}");
        }
        let hash = data_encoding::HEXLOWER.encode(&sha256("abc"));
        assert_eq!(
            hash,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
