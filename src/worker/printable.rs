//! Text from outside, escaped for a log line or a terminal.

/// How many bytes of such text a line shows; longer text is cut, and ends in `...`.
const SHOWN_BYTES_MAX: usize = 200;

/// The text with all unprintable characters escaped, cut to fit a line.
///
/// A submitter must not move a terminal's cursor, or write a second line into a log.
pub(super) fn printable(text: &[u8]) -> String {
    printable_up_to(text, SHOWN_BYTES_MAX)
}

/// The same, cut to this many bytes of the text.
pub(super) fn printable_up_to(text: &[u8], bytes_max: usize) -> String {
    let shown = &text[..text.len().min(bytes_max)];
    let mut out = String::with_capacity(shown.len());
    for chunk in shown.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\'' => out.push(c),
                c => out.extend(c.escape_debug()),
            }
        }
        out.extend(chunk.invalid().iter().flat_map(|byte| byte.escape_ascii()).map(char::from));
    }
    if shown.len() < text.len() {
        out.push_str("...");
    }
    out
}

/// The longest beginning of the text with at most this many bytes.
pub(super) fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_printable_is_escaped() {
        assert_eq!(printable("Straße \"9\" 'a'".as_bytes()), "Straße \"9\" 'a'");
        assert_eq!(printable(b"a\n\x1b[2J\0\xff\\"), r"a\n\u{1b}[2J\0\xff\\");
        assert_eq!(printable("\u{202e}x".as_bytes()), r"\u{202e}x");
    }

    #[test]
    fn long_text_is_cut() {
        assert_eq!(printable(&[b'a'; 201]), format!("{}...", "a".repeat(200)));
        assert_eq!([cut("aß", 2), cut("aß", 3), cut("aß", 9)], ["a", "aß", "aß"]);
    }
}
