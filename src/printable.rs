//! Text from outside, escaped for a log line or a terminal.

/// How many bytes of such text a line shows; longer text is cut, and ends in `...`.
const SHOWN_BYTES_MAX: usize = 200;

/// The text with all unprintable characters escaped, cut to fit a line.
///
/// A submitter must not move a terminal's cursor, or write a second line into a log.
pub(crate) fn printable(text: &[u8]) -> String {
    printable_up_to(text, SHOWN_BYTES_MAX)
}

/// The same, cut to this many bytes of the text.
pub(crate) fn printable_up_to(text: &[u8], bytes_max: usize) -> String {
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

/// Appends a reply as a terminal may show it: line feeds stay, control characters and those that change the direction of
/// text are escaped, and so are bytes that are not UTF-8.
///
/// A body must not set a terminal's title, clear its screen or hide a part of a line.
pub(crate) fn escape_for_terminal(text: &[u8], out: &mut Vec<u8>) {
    for chunk in text.utf8_chunks() {
        let mut rest = chunk.valid();
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| *c != '\n' && is_unsafe_on_terminal(*c)) {
            out.extend_from_slice(&rest.as_bytes()[..at]);
            out.extend(c.escape_default().map(|c| c as u8));
            rest = &rest[at + c.len_utf8()..];
        }
        out.extend_from_slice(rest.as_bytes());
        out.extend(chunk.invalid().iter().flat_map(|byte| byte.escape_ascii()));
    }
}

/// Whether a terminal may obey this character, or show what follows it in another order.
pub(crate) fn is_unsafe_on_terminal(c: char) -> bool {
    // What Unicode calls Bidi_Control.
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The longest beginning of the text with at most this many bytes.
pub(crate) fn cut(text: &str, bytes_max: usize) -> &str {
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
    fn what_a_terminal_may_obey_is_escaped_and_all_else_stays() {
        let escaped = |text: &[u8]| {
            let mut out = Vec::new();
            escape_for_terminal(text, &mut out);
            String::from_utf8(out).unwrap()
        };
        let harmless = "Straße \"9\" C:\\n 日本 e\u{301}\nnext\n";
        assert_eq!(escaped(harmless.as_bytes()), harmless);
        assert_eq!(escaped(b"\x1b]0;title\x07\r\t\x7f\n"), "\\u{1b}]0;title\\u{7}\\r\\t\\u{7f}\n");
        assert_eq!(escaped("\u{9b}2J \u{202e}a\u{2066}".as_bytes()), r"\u{9b}2J \u{202e}a\u{2066}");
        assert_eq!(escaped(b"\x9b2J\xff"), r"\x9b2J\xff");
        for code in 0..=0x10ffff {
            let Some(c) = char::from_u32(code).filter(|c| is_unsafe_on_terminal(*c)) else { continue };
            assert!(!printable(c.to_string().as_bytes()).contains(c), "a log line shows {c:?} as it is");
        }
    }

    #[test]
    fn long_text_is_cut() {
        assert_eq!(printable(&[b'a'; 201]), format!("{}...", "a".repeat(200)));
        assert_eq!([cut("aß", 2), cut("aß", 3), cut("aß", 9)], ["a", "aß", "aß"]);
    }
}
