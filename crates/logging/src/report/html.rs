//! HTML that all reports share: the document, tables and escaping.

use std::borrow::Cow;

/// Escapes a text for elements and for quoted attributes.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(['&', '<', '>', '"', '\'']) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            character => escaped.push(character),
        }
    }
    Cow::Owned(escaped)
}

/// The start of every report; only a file that begins so is replaced. Part of the file format: a
/// change would make reports of earlier versions irreplaceable.
pub const MARKER: &str = "<!doctype html>\n<!-- a page by crescendo -->\n";

/// A complete document; `title` is plain text, `body` is HTML. A browser reloads it after so many seconds, if any.
pub fn document(title: &str, body: &str, reload: Option<u32>) -> String {
    let (title, style) = (escape(title), include_str!("style.css"));
    let reload = reload.map_or(String::new(), |seconds| {
        format!("<meta http-equiv=\"refresh\" content=\"{seconds}\">\n")
    });
    // The empty icon keeps browsers from requesting one.
    format!(
        "{MARKER}<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n{reload}\
         <link rel=\"icon\" href=\"data:,\">\n<title>{title}</title>\n<style>\n{style}</style>\n\
         </head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )
}

/// A table that scrolls horizontally if it is too wide; cells are HTML.
pub fn table(class: &str, header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut html =
        format!("<div class=\"scroll\" tabindex=\"0\">\n<table class=\"{class}\">\n<thead><tr>");
    for cell in header {
        html += &format!("<th scope=\"col\">{cell}</th>");
    }
    html += "</tr></thead>\n<tbody>\n";
    for row in rows {
        html += "<tr>";
        for cell in row {
            html += &format!("<td>{cell}</td>");
        }
        html += "</tr>\n";
    }
    html + "</tbody>\n</table>\n</div>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped() {
        assert_eq!(escape("plain ünï"), "plain ünï");
        assert_eq!(
            escape("<script>'&\"</script>"),
            "&lt;script&gt;&#39;&amp;&quot;&lt;/script&gt;"
        );
        assert!(
            document("</title><script>", "", None).contains("<title>&lt;/title&gt;&lt;script&gt;")
        );
    }
}
