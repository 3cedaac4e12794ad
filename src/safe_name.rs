//! Job names as file names: a name must not lead outside its directory.
//! Must not know: which directory, which file.

/// `name` with `/`, `%`, control bytes and a leading `.` percent-encoded; an empty name becomes `%00`.
/// Different names stay different. A name that is too long for a file name is cut and ends with a hash of the whole.
pub fn safe_name(name: &str) -> String {
    let mut safe = String::with_capacity(name.len());
    for (at, letter) in name.char_indices() {
        let hidden = at == 0 && letter == '.';
        if hidden || letter == '/' || letter == '%' || letter.is_ascii_control() {
            safe.push_str(&format!("%{:02X}", letter as u32));
        } else {
            safe.push(letter);
        }
    }
    if safe.is_empty() {
        return "%00".to_string();
    }
    shorten(safe)
}

/// File names have at most 255 bytes; this leaves room for prefixes and suffixes.
const LONGEST_BYTES: usize = 180;

fn shorten(mut safe: String) -> String {
    if safe.len() <= LONGEST_BYTES {
        return safe;
    }
    // FNV-1a is sufficient to distinguish long names
    let hash = safe.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut end = LONGEST_BYTES - 18;
    while !safe.is_char_boundary(end) {
        end -= 1;
    }
    safe.truncate(end);
    safe.push_str(&format!("%~{hash:016x}"));
    safe
}

#[cfg(test)]
mod tests {
    use super::safe_name;

    #[test]
    fn no_name_leaves_its_directory() {
        assert_eq!(safe_name("backup"), "backup");
        assert_eq!(safe_name("../x"), "%2E.%2Fx");
        assert_eq!(safe_name(".hidden"), "%2Ehidden");
        assert_eq!(safe_name("a.b"), "a.b");
        assert_eq!(safe_name("50%\n"), "50%25%0A");
        assert_eq!(safe_name("grüße"), "grüße");
        assert_eq!(safe_name(""), "%00");
    }

    #[test]
    fn long_names_are_cut_and_stay_different() {
        let one = safe_name(&"ä".repeat(300));
        let two = safe_name(&"ä".repeat(301));
        assert!(one.len() <= 180 && two.len() <= 180);
        assert_ne!(one, two);
    }
}
