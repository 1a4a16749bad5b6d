//! Results as one page that needs nothing else: no script, no font, no picture from elsewhere. Light and dark, as the reader has it.
//!
//! **Owns** the page around the charts ([`chart`]) and its style. **Callers:** the reports of each verb, which say what is on it.

pub(super) mod chart;

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context, ensure};
use nix::unistd::{AccessFlags, access};

use super::host::Host;

const STYLE: &str = "\
:root{color-scheme:light dark;--paper:#fff;--ink:#1c2230;--faint:#6a7282;--line:#e2e5ea;--panel:#f7f8fa}
@media(prefers-color-scheme:dark){:root{--paper:#14171d;--ink:#e6e9ef;--faint:#97a0b0;--line:#2b313b;--panel:#1b1f27}}
*{box-sizing:border-box}
body{margin:0 auto;padding:2.5rem 1.25rem 4rem;max-width:64rem;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}
h1{font-size:1.6rem;margin:0 0 .25rem;letter-spacing:-.01em}
h2{font-size:1.1rem;margin:2.5rem 0 .6rem}
p{margin:.2rem 0;color:var(--faint)}
figure{margin:0;padding:1rem 1.1rem;background:var(--panel);border:1px solid var(--line);border-radius:10px;overflow-x:auto}
p+figure{margin-top:1.6rem}
figure+figure,figure+p{margin-top:.9rem}
figcaption{font-weight:600;margin-bottom:.6rem}
svg{display:block;width:100%;height:auto;min-width:34rem}
svg text{fill:var(--ink);font:12px system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;font-variant-numeric:tabular-nums}
svg .faint{fill:var(--faint)}
svg .inside{fill:#fff;font-weight:600}
svg .grid{stroke:var(--line);stroke-width:1}
svg .mark{stroke:var(--ink)}
ul.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.25rem 1.1rem;margin:.7rem 0 0;padding:0;font-size:13px}
ul.legend i{display:inline-block;width:.75rem;height:.75rem;border-radius:3px;margin-right:.4rem;vertical-align:-1px}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:14px}
th,td{padding:.3rem .6rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{color:var(--faint);font-weight:600}
th:first-child,td:first-child{text-align:left;padding-left:0}
tr:last-child td{border-bottom:0}
";

/// A page that is being written.
pub(super) struct Page(String);

impl Page {
    pub(super) fn new(title: &str, host: &Host, circumstances: &str) -> Self {
        let time = humantime::format_rfc3339_seconds(std::time::SystemTime::now());
        Self(format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
             content=\"width=device-width,initial-scale=1\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
             <h1>{title}</h1>\n<p>{host}</p>\n<p>{circumstances} &middot; {time}</p>\n",
            title = escape(title),
            host = escape(&host.describe()),
            circumstances = escape(circumstances),
        ))
    }

    pub(super) fn heading(&mut self, text: &str) {
        let _ = writeln!(self.0, "<h2>{}</h2>", escape(text));
    }

    pub(super) fn paragraph(&mut self, text: &str) {
        let _ = writeln!(self.0, "<p>{}</p>", escape(text));
    }

    pub(super) fn figure(&mut self, caption: &str, svg: &str) {
        let _ = writeln!(self.0, "<figure><figcaption>{}</figcaption>\n{svg}</figure>", escape(caption));
    }

    /// A chart whose colours are explained below it.
    pub(super) fn figure_with_legend(&mut self, caption: &str, svg: &str, legend: &[(&str, &str)]) {
        let mut items = String::new();
        for (colour, text) in legend {
            let _ = write!(items, "<li><i style=\"background:{colour}\"></i>{}</li>", escape(text));
        }
        self.figure(caption, &format!("{svg}<ul class=\"legend\">{items}</ul>"));
    }

    /// A table; the first line is its head.
    pub(super) fn table(&mut self, lines: &[Vec<String>]) {
        self.0.push_str("<figure><table>\n");
        for (index, line) in lines.iter().enumerate() {
            let tag = if index == 0 { "th" } else { "td" };
            self.0.push_str("<tr>");
            for cell in line {
                let _ = write!(self.0, "<{tag}>{}</{tag}>", escape(cell));
            }
            self.0.push_str("</tr>\n");
        }
        self.0.push_str("</table></figure>\n");
    }

    pub(super) fn write(mut self, path: &Path) -> anyhow::Result<()> {
        self.0.push_str("</body>\n</html>\n");
        fs::write(path, self.0).with_context(|| format!("--html {}", path.display()))
    }
}

/// Whether a page can be written to `path`: asked before anything is measured, and without leaving a file.
pub(super) fn check(path: &Path) -> anyhow::Result<()> {
    let failed = || format!("--html {}", path.display());
    ensure!(!path.is_dir(), "{}: is a folder", failed());
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    ensure!(folder.is_dir(), "{}: there is no folder {}", failed(), folder.display());
    let target = if path.exists() { path } else { folder };
    access(target, AccessFlags::W_OK).with_context(failed)
}

/// Text as it may stand in a page.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_out_of_the_page() {
        assert_eq!(escape("<b a=\"1\">&</b>"), "&lt;b a=&quot;1&quot;&gt;&amp;&lt;/b&gt;");
    }

    #[test]
    fn a_file_that_cannot_be_written_is_found_before() {
        let folder = tempfile::tempdir().unwrap();
        check(&folder.path().join("new.html")).unwrap();
        assert!(!folder.path().join("new.html").exists());
        assert!(check(folder.path()).unwrap_err().to_string().contains("folder"));
        let error = check(Path::new("/no/such/folder/x.html")).unwrap_err().to_string();
        assert!(error.contains("/no/such/folder"), "{error}");
    }
}
