//! Base64 with the standard alphabet and padding (RFC 4648): how JSON shows a body that is not UTF-8.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The bytes as text.
pub(crate) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let padded = [0, chunk[0], *chunk.get(1).unwrap_or(&0), *chunk.get(2).unwrap_or(&0)];
        let bits = u32::from_be_bytes(padded);
        for digit in 0..4 {
            let index = bits >> (18 - 6 * digit) & 0x3f;
            text.push(if digit <= chunk.len() { ALPHABET[index as usize] as char } else { '=' });
        }
    }
    text
}

/// The bytes that [`encode`] made this text of; `None` if there are none.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for chunk in text.as_bytes().chunks(4) {
        let digits = chunk.iter().position(|byte| *byte == b'=').unwrap_or(chunk.len());
        let mut bits = 0_u32;
        for digit in &chunk[..digits] {
            bits = bits << 6 | ALPHABET.iter().position(|known| known == digit)? as u32;
        }
        bits <<= 6 * (4 - digits);
        bytes.extend_from_slice(&bits.to_be_bytes()[1..digits.max(1)]);
    }
    (encode(&bytes) == text).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use base64::prelude::{BASE64_STANDARD, Engine};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_encoded_as_others_encode_them_and_decoded(bytes: Vec<u8>) {
            let text = encode(&bytes);
            prop_assert_eq!(&text, &BASE64_STANDARD.encode(&bytes));
            prop_assert_eq!(decode(&text), Some(bytes));
        }

        #[test]
        fn text_is_decoded_where_others_decode_it(text in "[AQgw/+=]{0,9}|.{0,9}") {
            prop_assert_eq!(decode(&text), BASE64_STANDARD.decode(&text).ok());
        }
    }
}
