//! The table of the options in force.

use std::fmt::Write;

pub(super) fn write_options(out: &mut String, options: &[(String, String)]) -> std::fmt::Result {
    out.push_str(
        "<h2 id=\"options\">Options</h2>\n<div class=\"wide\" role=\"region\" \
         aria-labelledby=\"options\" tabindex=\"0\"><table aria-labelledby=\"options\">\n",
    );
    for (name, value) in options {
        let value = value.replace('&', "&amp;").replace('<', "&lt;");
        writeln!(out, "<tr><th scope=\"row\">{name}<td>{value}")?;
    }
    out.push_str("</table></div>\n");
    Ok(())
}
