//! Escapes control characters, so that a text stays on one line.

use std::fmt::{self, Write};

/// Whether a character is a control character, changes the text direction (Unicode's property
/// `Bidi_Control`), or separates lines or paragraphs.
pub(crate) fn is_control(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

/// Appends text with the characters of [`is_control`] and other unprintable ones escaped: a payload,
/// a name or the text of an error cannot forge a log line or control a terminal.
pub(super) struct Escaped<'a>(pub(super) &'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let printable = |byte| matches!(byte, b' '..=b'~');
        if text.bytes().all(printable) {
            self.0.push_str(text);
            return Ok(());
        }
        for character in text.chars() {
            match character {
                // escape_debug would escape these too, and escaped text twice.
                '\\' | '\'' | '"' => self.0.push(character),
                _ => self.0.extend(character.escape_debug()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(text: &str) -> String {
        let mut out = String::new();
        Escaped(&mut out).write_str(text).unwrap();
        out
    }

    #[test]
    fn printable_text_is_unchanged() {
        for text in ["", "a b ~", r#"b'\x00\'', "quoted", C:\n"#, "Grüße, 世界 ☃"] {
            assert_eq!(escaped(text), text);
        }
    }

    #[test]
    fn every_control_character_is_escaped() {
        let all: String = (char::MIN..=char::MAX).collect();
        let escaped_all = escaped(&all);
        assert_eq!(escaped_all.chars().find(|c| is_control(*c)), None);
        assert_eq!(
            escaped("a\nb\r\t\0\u{1b}[2J\u{7f}\u{9b}\u{2028}\u{202e}"),
            r"a\nb\r\t\0\u{1b}[2J\u{7f}\u{9b}\u{2028}\u{202e}"
        );
    }
}
