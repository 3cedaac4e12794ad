//! The host's names.
//! Must not know: what it names.

use std::ffi::{CStr, CString};

/// The host's name as the kernel has it.
pub fn short_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The fully qualified name where the resolver knows one, else the bare host name.
pub fn full_name() -> String {
    let bare = short_name();
    if bare.contains('.') {
        return bare;
    }
    canonical(&bare).filter(|name| name.contains('.')).unwrap_or(bare)
}

fn canonical(bare: &str) -> Option<String> {
    let bare = CString::new(bare).ok()?;
    // SAFETY: addrinfo is plain data; all zero means "any"
    let mut hints = unsafe { std::mem::zeroed::<libc::addrinfo>() };
    hints.ai_flags = libc::AI_CANONNAME;
    hints.ai_socktype = libc::SOCK_STREAM;
    let mut list = std::ptr::null_mut();
    // SAFETY: bare ends with NUL, hints and list live on this stack
    if unsafe { libc::getaddrinfo(bare.as_ptr(), std::ptr::null(), &hints, &mut list) } != 0 || list.is_null()
    {
        return None;
    }
    // SAFETY: a successful getaddrinfo gives a list whose first entry may hold a name; it is freed once, here
    unsafe {
        let name = (*list).ai_canonname;
        let name = (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned());
        libc::freeaddrinfo(list);
        name
    }
}
