//! What a person typed: the verb in upper case, no control characters.

/// The command with its verb in upper case, as the protocol wants it. A person need not write it so.
pub(super) fn upper_case_verb(mut command: Vec<u8>) -> Vec<u8> {
    let is_verb = |byte: &&mut u8| byte.is_ascii_alphabetic() || **byte == b'-';
    let verb = command.iter_mut().skip_while(|byte| byte.is_ascii_whitespace());
    verb.take_while(is_verb).for_each(|byte| byte.make_ascii_uppercase());
    command
}

/// The first word.
pub(super) fn verb(command: &[u8]) -> &[u8] {
    let end = |byte: &u8| byte.is_ascii_whitespace() || *byte == b':';
    command.trim_ascii_start().split(end).next().unwrap_or_default()
}

/// The value of an option in the header of a command.
pub(super) fn option<'a>(command: &'a [u8], name: &str) -> Option<&'a str> {
    let text = str::from_utf8(command).ok()?;
    let header = text.split_once(": ").map_or(text, |(header, _)| header);
    header.split_ascii_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

/// Whether a terminal sent a key's code instead of a character: an arrow, for instance. A tab is text.
pub(super) fn has_control_character(line: &[u8]) -> bool {
    String::from_utf8_lossy(line).chars().any(|c| c.is_control() && c != '\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_verb_becomes_upper_case() {
        let cases =
            [("task: get", "TASK: get"), (" get queue=a", " GET queue=a"), ("Stats", "STATS"), ("", "")];
        for (typed, command) in cases {
            assert_eq!(upper_case_verb(typed.into()), command.as_bytes());
        }
    }

    #[test]
    fn parts_of_a_command() {
        assert_eq!(verb(b" TASK: a"), b"TASK");
        assert_eq!(verb(b""), b"");
        assert_eq!(option(b"PURGE queue=a state=dead", "state"), Some("dead"));
        assert_eq!(option(b"TASK: a queue=b", "queue"), None);
    }

    #[test]
    fn key_of_a_terminal_is_no_text() {
        assert!(has_control_character(b"ACK 4\x1b[D") && has_control_character("a\u{9b}".as_bytes()));
        assert!(!has_control_character("TASK: Stra\u{df}e\t1".as_bytes()));
    }
}
