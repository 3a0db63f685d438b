//! Stand-ins of AWS that `tests/it` and `tests/rehearse` share. They do not depend on the program, so a change of it
//! does not recompile them.

pub mod ec2;
