//! Text that stays on its line.

use std::fmt::{self, Write};

/// Whether a character is a control character, turns the direction of writing (Unicode's property
/// `Bidi_Control`), or ends a line or paragraph.
pub(crate) fn is_control(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

/// Writes text with everything escaped that a terminal or a reader of lines would not take for
/// text: control characters, line separators, what turns the direction of writing. Whatever is in
/// a payload, a name or the text of an error, a line stays one, and shows what is in it.
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
                // Harmless, and what is escaped already stays as it is.
                '\\' | '\'' | '"' => self.0.push(character),
                // Escapes what is not printable.
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
    fn text_stays_as_it_is() {
        for text in ["", "a b ~", r#"b'\x00\'', "quoted", C:\n"#, "Grüße, 世界 ☃"] {
            assert_eq!(escaped(text), text);
        }
    }

    #[test]
    fn no_character_is_left_that_moves_a_cursor_or_ends_a_line() {
        let all: String = (char::MIN..=char::MAX).collect();
        let escaped_all = escaped(&all);
        assert_eq!(escaped_all.chars().find(|c| is_control(*c)), None);
        assert_eq!(
            escaped("a\nb\r\t\0\u{1b}[2J\u{7f}\u{9b}\u{2028}\u{202e}"),
            r"a\nb\r\t\0\u{1b}[2J\u{7f}\u{9b}\u{2028}\u{202e}"
        );
    }
}
