//! Enums whose values have names.

/// Makes such enums. A value has its `name`, and is what `parse` makes of that.
#[macro_export]
macro_rules! named {
    ($($(#[$about:meta])* $type:ident {
        $($(#[$doc:meta])* $value:ident = $name:literal),* $(,)?
    })*) => {$(
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $type { $($(#[$doc])* $value),* }

        impl $type {
            /// In the order of the declaration.
            pub const ALL: &[Self] = &[$(Self::$value),*];

            pub fn name(self) -> &'static str {
                match self { $(Self::$value => $name),* }
            }
        }

        impl ::std::str::FromStr for $type {
            /// The hint for a name that is none of these.
            type Err = String;

            fn from_str(name: &str) -> Result<Self, String> {
                match name {
                    $($name => Ok(Self::$value),)*
                    _ => Err($crate::similar::use_one_of(name, &[$($name),*])),
                }
            }
        }
    )*};
}
