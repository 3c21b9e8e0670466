use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::fmt;

/// The secret of a file's owner: 32 bytes from a source of entropy. It encrypts any number of files.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; 32]);

/// Sixteen random bytes per upload. It need not be secret. An upload that is tried again has the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Salt(pub [u8; 16]);

/// What AES-GCM adds to a chunk, in bytes.
pub(crate) const TAG_BYTES: u32 = 16;

impl Key {
    /// The key of these bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Key {
        Key(bytes)
    }

    /// A MAC of `parts` for one purpose. Parts have fixed lengths but for the last.
    pub(crate) fn mac(&self, purpose: &str, parts: &[&[u8]]) -> [u8; 32] {
        let purpose = hmac(&self.0, &[b"trinity v1 ", purpose.as_bytes()]);
        hmac(&purpose, parts)
    }

    fn cipher(&self, siv: &[u8; 32]) -> Aes256Gcm {
        Aes256Gcm::new(&self.mac("chunk key", &[siv]).into())
    }

    /// The MAC that names a chunk's key, and the ciphertext with its tag. `place` has a fixed length.
    pub(crate) fn seal(&self, place: &[u8], body: &[u8]) -> ([u8; 32], Vec<u8>) {
        let siv = self.mac("chunk", &[place, body]);
        let payload = Payload { msg: body, aad: place };
        // The key is used for this body alone, so any nonce is fresh.
        let sealed = self.cipher(&siv).encrypt(&Nonce::default(), payload);
        (siv, sealed.expect("a chunk is shorter than AES-GCM's limit of 2^36 bytes"))
    }

    /// The body, if this key sealed it for this place.
    pub(crate) fn open(&self, place: &[u8], siv: &[u8; 32], sealed: &[u8]) -> Option<Vec<u8>> {
        let payload = Payload { msg: sealed, aad: place };
        self.cipher(siv).decrypt(&Nonce::default(), payload).ok()
    }
}

/// A key is not shown.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac =
        <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_bytes_another_place_or_another_key_are_another_key_for_the_cipher() {
        let key = Key::new([1; 32]);
        let (siv, sealed) = key.seal(b"place 1", b"body");
        assert_eq!(key.seal(b"place 1", b"body"), (siv, sealed.clone()));
        let others = [
            key.seal(b"place 2", b"body").0,
            key.seal(b"place 1", b"Body").0,
            Key::new([2; 32]).seal(b"place 1", b"body").0,
        ];
        assert!(!others.contains(&siv), "no key is used for two bodies");
        assert_eq!(key.open(b"place 1", &siv, &sealed), Some(b"body".to_vec()));
        assert_eq!(key.open(b"place 2", &siv, &sealed), None);
        assert_eq!(Key::new([2; 32]).open(b"place 1", &siv, &sealed), None);
        assert_eq!(format!("{key:?}"), "Key(…)");
    }

    /// RFC 4231, test case 2.
    #[test]
    fn the_mac_is_hmac() {
        let mut key = [0; 32];
        key[..4].copy_from_slice(b"Jefe");
        let mac = hmac(&key, &[b"what do ya want ", b"for nothing?"]);
        assert_eq!(mac[..4], [0x5b, 0xdc, 0xc1, 0x46]);
    }
}
