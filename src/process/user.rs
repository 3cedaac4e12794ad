//! User accounts: lookup, groups, home directory, and switching to one.
//! Must not know: why.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// One line of the user database, with the groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub name: OsString,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: OsString,
    pub shell: OsString,
}

/// The account of that name, or with that number where no such name exists. None: there is none.
pub fn account_named(name: &OsStr) -> io::Result<Option<Account>> {
    let Ok(wanted) = CString::new(name.as_bytes()) else {
        return Ok(None);
    };
    let found = look_up(|entry, buffer, found| {
        // SAFETY: all pointers are valid for the call; wanted ends with NUL
        unsafe {
            libc::getpwnam_r(
                wanted.as_ptr(),
                entry,
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                found,
            )
        }
    })?;
    match (found, name.to_str().and_then(|name| name.parse().ok())) {
        (None, Some(uid)) => account_of(uid),
        (found, _) => Ok(found),
    }
}

/// The account with that number. None: there is none.
pub fn account_of(uid: u32) -> io::Result<Option<Account>> {
    look_up(|entry, buffer, found| {
        // SAFETY: all pointers are valid for the call
        unsafe { libc::getpwuid_r(uid, entry, buffer.as_mut_ptr().cast(), buffer.len(), found) }
    })
}

/// Gives this process (one thread, root) the account's groups, group and user, for good.
/// Calls nothing that allocates: fit for a child between fork and exec.
pub(super) fn become_account(account: &Account) -> io::Result<()> {
    // SAFETY: the pointer and length describe a live slice
    if unsafe { libc::setgroups(account.groups.len(), account.groups.as_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: plain numbers
    if unsafe { libc::setresgid(account.gid, account.gid, account.gid) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: plain numbers
    if unsafe { libc::setresuid(account.uid, account.uid, account.uid) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn look_up(
    ask: impl Fn(*mut libc::passwd, &mut [u8], *mut *mut libc::passwd) -> i32,
) -> io::Result<Option<Account>> {
    let mut buffer = vec![0u8; 4 << 10];
    loop {
        // SAFETY: passwd is plain data; all zero is a valid value of it
        let mut entry = unsafe { std::mem::zeroed::<libc::passwd>() };
        let mut found = std::ptr::null_mut();
        match ask(&mut entry, &mut buffer, &mut found) {
            0 if found.is_null() => return Ok(None),
            0 => return account_from(&entry).map(Some),
            libc::ERANGE if buffer.len() < 1 << 20 => {
                let larger = buffer.len() * 4;
                buffer.resize(larger, 0);
            }
            // several databases say "no such user" this way
            libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM => return Ok(None),
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

fn account_from(entry: &libc::passwd) -> io::Result<Account> {
    let name = text(entry.pw_name);
    Ok(Account {
        groups: groups_of(&name, entry.pw_gid)?,
        name,
        uid: entry.pw_uid,
        gid: entry.pw_gid,
        home: text(entry.pw_dir),
        shell: text(entry.pw_shell),
    })
}

fn groups_of(name: &OsStr, gid: u32) -> io::Result<Vec<u32>> {
    let name = CString::new(name.as_bytes())?;
    let mut groups = vec![0u32; 64];
    loop {
        let mut count = groups.len() as i32;
        // SAFETY: groups has room for count entries; name ends with NUL
        let fits = unsafe { libc::getgrouplist(name.as_ptr(), gid, groups.as_mut_ptr(), &mut count) } >= 0;
        if fits {
            groups.truncate(count.max(0) as usize);
            return Ok(groups);
        }
        if groups.len() >= 1 << 17 {
            return Err(io::Error::other("more groups than the kernel allows"));
        }
        let larger = groups.len() * 4;
        groups.resize(larger, 0);
    }
}

fn text(pointer: *const libc::c_char) -> OsString {
    if pointer.is_null() {
        return OsString::new();
    }
    // SAFETY: the fields of a passwd that was found end with NUL and live in its buffer
    let text = unsafe { CStr::from_ptr(pointer) };
    OsString::from_vec(text.to_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_nobody_are_found_and_a_stranger_is_not() {
        let root = account_named(OsStr::new("root")).unwrap().unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert_eq!(account_of(0).unwrap().unwrap(), root);
        assert_eq!(account_named(OsStr::new("0")).unwrap().unwrap(), root);
        let nobody = account_named(OsStr::new("nobody")).unwrap().unwrap();
        assert_eq!(nobody.groups, [nobody.gid]);
        assert_eq!(account_named(OsStr::new("no-such-user")).unwrap(), None);
    }
}
