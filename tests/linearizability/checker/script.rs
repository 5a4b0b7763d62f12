//! Histories written down row by row.

use plimsoll_linearizability::{History, Outcome};

/// A client, the time of its invocation and of its completion, what it asked for and was told.
pub(crate) type Row<Op, Ret> = (u32, u64, u64, Op, Outcome<Ret>);

pub(crate) fn history<Op, Ret>(rows: Vec<Row<Op, Ret>>) -> History<Op, Ret> {
    let mut history = History::new();
    for (client, invoked, completed, op, outcome) in rows {
        let call = history.invoke(client, invoked, op);
        history.complete(call, completed, outcome);
    }
    history
}
