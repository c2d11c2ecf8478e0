//! What a permission allows.

use super::{AuthError, Pattern};

/// What a permission is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Declare and delete.
    Configure,
    /// Publish to, bind to.
    Write,
    /// Consume, get, purge, bind from.
    Read,
}

impl Access {
    /// The word in `ACCESS_REFUSED - write access to …`.
    pub fn name(self) -> &'static str {
        match self {
            Access::Configure => "configure",
            Access::Write => "write",
            Access::Read => "read",
        }
    }
}

/// What one user may do in one virtual host.
#[derive(Clone, Debug, PartialEq)]
pub struct Permission {
    configure: Pattern,
    write: Pattern,
    read: Pattern,
}

impl Permission {
    /// Compiles the three expressions.
    pub fn new(texts: PermissionTexts<'_>) -> Result<Self, AuthError> {
        Ok(Permission {
            configure: Pattern::new(texts.configure)?,
            write: Pattern::new(texts.write)?,
            read: Pattern::new(texts.read)?,
        })
    }

    /// Whether `access` to the queue or exchange `resource_name` is allowed. The default exchange
    /// is asked for as [`super::DEFAULT_EXCHANGE_RESOURCE`]; an empty name is taken for it.
    pub fn may(&self, access: Access, resource_name: &[u8]) -> bool {
        let name = match resource_name {
            b"" => super::DEFAULT_EXCHANGE_RESOURCE.as_bytes(),
            name => name,
        };
        let pattern = match access {
            Access::Configure => &self.configure,
            Access::Write => &self.write,
            Access::Read => &self.read,
        };
        pattern.matches(name)
    }

    /// Whether any access at all is allowed, which is what passive declaration needs.
    pub fn may_any(&self, resource_name: &[u8]) -> bool {
        [Access::Configure, Access::Write, Access::Read]
            .into_iter()
            .any(|access| self.may(access, resource_name))
    }

    /// The expressions as they were given.
    pub fn texts(&self) -> PermissionTexts<'_> {
        PermissionTexts {
            configure: self.configure.text(),
            write: self.write.text(),
            read: self.read.text(),
        }
    }
}

/// The expressions of a permission as texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PermissionTexts<'a> {
    /// What may be declared and deleted.
    pub configure: &'a str,
    /// What may be published to and bound.
    pub write: &'a str,
    /// What may be consumed, purged and bound from.
    pub read: &'a str,
}
