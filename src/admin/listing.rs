//! Listings: rows of a table, filtered, sorted, cut into pages, rendered in slices.
//!
//! [`Listing::step`] does a bounded piece of work and is called until it is done; between two steps
//! the broker goes on, rows come and go. First the rows are walked once, which yields a sort key
//! and a cursor for each (some 40 octets, no copies of rows), sorted in runs; then each row is
//! fetched again by its cursor, in order, and rendered. A row that went in between is left out.
//!
//! Beyond [`SORTED_ROWS_MAX`] rows nothing is sorted unless the request names a column: they come
//! in the state's own order, which is the same for every page as long as nothing comes or goes.

use super::filter::{Filter, Item, Source};
use super::json::{Object, QueueFields, Writer};
use super::order::{Runs, SortKey};
use super::reply::Reply;
use super::request::Head;
use super::view::{Admin, Cursor};
use regex::bytes::{Regex, RegexBuilder};
use serde_json::Value;

/// Rows that are put into the order of their names; more come as they are.
pub(super) const SORTED_ROWS_MAX: usize = 10_000;
/// Rows that can be sorted by a column of the request's choice.
const WINDOW_ROWS_MAX: usize = 10_000;
/// Rows on one page at most, as in RabbitMQ.
const PAGE_ROWS_MAX: usize = 500;
/// Rows of a page when the request does not say.
const PAGE_ROWS_DEFAULT: usize = 100;
/// Rows looked at in one step; a look costs some hundred nanoseconds.
const WALK_ROWS: usize = 256;
/// Rows rendered in one step; one costs some microseconds.
const RENDER_ROWS: usize = 16;
/// Octets of a name filter's compiled expression.
const REGEX_OCTETS_MAX: usize = 1 << 20;

/// The value that a column's path leads to.
pub(super) fn at_path<'a>(object: &'a Object, path: &[String]) -> Option<&'a Value> {
    let (last, way) = path.split_last()?;
    let mut object = object;
    for key in way {
        object = object.get(key)?.as_object()?;
    }
    object.get(last)
}

/// The parts of `object` that the paths lead to, nested as they were.
pub(super) fn select(object: Object, columns: &[Vec<String>]) -> Object {
    if columns.is_empty() {
        return object;
    }
    let mut selected = Object::new();
    for path in columns {
        let Some(value) = at_path(&object, path) else {
            continue;
        };
        let Some((last, way)) = path.split_last() else {
            continue;
        };
        let mut place = Some(&mut selected);
        for key in way {
            place = place.and_then(|object| {
                let inner = object
                    .entry(key.as_str())
                    .or_insert_with(|| Object::new().into());
                inner.as_object_mut()
            });
        }
        if let Some(object) = place {
            object.insert(last.clone(), value.clone());
        }
    }
    selected
}

/// Paths as `columns=name,message_stats.publish` gives them.
pub(super) fn columns(head: &Head) -> Vec<Vec<String>> {
    let text = head.query("columns").unwrap_or_default();
    let paths = text
        .split(',')
        .map(str::trim)
        .filter(|path| !path.is_empty());
    paths.take(100).map(path).collect()
}

fn path(text: &str) -> Vec<String> {
    text.split('.').map(str::to_owned).collect()
}

/// Which fields of queues the query asks for.
pub(super) fn queue_fields(head: &Head) -> QueueFields {
    QueueFields {
        no_stats: head.has_flag("disable_stats"),
        totals: head.has_flag("enable_queue_totals"),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Page {
    number: usize,
    size: usize,
}

impl Page {
    /// The page that the query asks for.
    fn parse(head: &Head) -> Result<Option<Page>, Reply> {
        let Some(number) = head.query("page") else {
            return Ok(None);
        };
        let size = head.query("page_size");
        let parsed = (
            number.parse(),
            size.map_or(Ok(PAGE_ROWS_DEFAULT), str::parse),
        );
        if let (Ok(number), Ok(size)) = parsed {
            let page = Page { number, size };
            if (1..=usize::MAX / PAGE_ROWS_MAX).contains(&number)
                && (1..=PAGE_ROWS_MAX).contains(&size)
            {
                return Ok(Some(page));
            }
        }
        let size = size.unwrap_or("undefined");
        let reason =
            format!("Invalid pagination parameters: page number {number}, page size {size}");
        Err(Reply::error(400, "invalid_pagination_parameters", reason))
    }

    fn start(self) -> usize {
        (self.number - 1) * self.size
    }

    fn out_of_range(self, rows: usize) -> Reply {
        let Page { number, size } = self;
        let reason = format!("Page out of range, page: {number} page size: {size}, len: {rows}");
        Reply::error(400, "page_out_of_range", reason)
    }
}

/// What a step led to.
#[derive(Debug)]
pub(super) enum Step {
    /// There is more to do.
    More,
    /// The body is whole.
    Done,
    /// Another response is to be given instead. Nothing was rendered.
    Instead(Reply),
}

enum Stage {
    /// Walking over the rows, collecting those that are wanted.
    Collect { from: Cursor, runs: Runs },
    /// Rendering rows that were collected: so many, after so many that are left out.
    Render {
        runs: Runs,
        skip: usize,
        left: usize,
    },
    /// Rendering while walking, in the state's own order.
    Stream { from: Cursor },
}

/// A listing on its way.
pub(super) struct Listing {
    source: Source,
    filter: Filter,
    name: Option<Regex>,
    columns: Vec<Vec<String>>,
    fields: QueueFields,
    sort: Option<Vec<String>>,
    page: Option<Page>,
    /// One object is wanted: the first row, or 404.
    single: bool,
    stage: Stage,
    /// Rows that the viewer may see, and those of them that the name filter lets through.
    total: usize,
    filtered: usize,
    /// Rows rendered.
    rendered: usize,
    /// The rendered rows of a page, which its counts precede.
    items: Vec<u8>,
}

impl Listing {
    /// A listing of all rows that `filter` lets through, as the query wants it.
    pub(super) fn new(source: Source, filter: Filter, head: &Head) -> Result<Listing, Reply> {
        Ok(Listing {
            source,
            filter,
            name: name_filter(head)?,
            columns: columns(head),
            fields: queue_fields(head),
            sort: head.query("sort").filter(|sort| !sort.is_empty()).map(path),
            page: Page::parse(head)?,
            single: false,
            stage: Stage::Collect {
                from: Cursor::START,
                runs: Runs::new(head.has_flag("sort_reverse")),
            },
            total: 0,
            filtered: 0,
            rendered: 0,
            items: Vec::new(),
        })
    }

    /// The one row that `filter` lets through, or 404.
    pub(super) fn single(source: Source, filter: Filter, head: &Head) -> Listing {
        Listing {
            source,
            filter,
            name: None,
            columns: columns(head),
            fields: queue_fields(head),
            sort: None,
            page: None,
            single: true,
            stage: Stage::Stream {
                from: Cursor::START,
            },
            total: 0,
            filtered: 0,
            rendered: 0,
            items: Vec::new(),
        }
    }

    /// Goes on for a bounded time, appending to the response's body.
    ///
    /// * `node`: name of this node.
    pub(super) fn step(&mut self, admin: &dyn Admin, node: &str, body: &mut Vec<u8>) -> Step {
        match &mut self.stage {
            Stage::Collect { .. } => self.collect(admin, node),
            Stage::Render { .. } => self.render(admin, node, body),
            Stage::Stream { .. } => self.stream(admin, node, body),
        }
    }

    fn collect(&mut self, admin: &dyn Admin, node: &str) -> Step {
        let Listing {
            source,
            filter,
            name,
            fields,
            sort,
            stage,
            total,
            filtered,
            ..
        } = self;
        let Stage::Collect { from, runs } = stage else {
            return Step::More;
        };
        let users = admin.users();
        let mut keys = Vec::new();
        // Sorting by a column renders that column of every row.
        let rows_max = if sort.is_some() {
            WALK_ROWS / 4
        } else {
            WALK_ROWS
        };
        let next = source.walk(admin, filter.scope(), *from, rows_max, &mut |at, item| {
            if !filter.admits(&item, users) {
                return;
            }
            *total += 1;
            if !name_admits(name.as_ref(), &item) {
                return;
            }
            *filtered += 1;
            let key = match sort {
                None => SortKey::natural(&item),
                Some(path) => SortKey::of_column(&item, path, node, *fields),
            };
            keys.push((key, at));
        });
        runs.push(keys);
        match next {
            Some(next) => {
                *from = next;
                self.bound_keys()
            }
            None => self.collected(),
        }
    }

    /// Keeps what was collected within its bound.
    fn bound_keys(&mut self) -> Step {
        let Stage::Collect { runs, .. } = &mut self.stage else {
            return Step::More;
        };
        if self.sort.is_none() {
            if runs.len() > SORTED_ROWS_MAX {
                self.stage = Stage::Stream {
                    from: Cursor::START,
                };
                (self.total, self.filtered) = (0, 0);
            }
            return Step::More;
        }
        if runs.len() <= 2 * WINDOW_ROWS_MAX {
            return Step::More;
        }
        let Some(page) = self.page else {
            let reason = "too many rows to sort: ask for a page, or filter by name";
            return Step::Instead(Reply::bad_request(reason));
        };
        runs.keep((page.start() + page.size).min(WINDOW_ROWS_MAX));
        Step::More
    }

    /// All rows are collected: finds the page among them.
    fn collected(&mut self) -> Step {
        let placeholder = Stage::Stream {
            from: Cursor::START,
        };
        let Stage::Collect { runs, .. } = std::mem::replace(&mut self.stage, placeholder) else {
            return Step::More;
        };
        let (skip, left) = match self.page {
            None => (0, usize::MAX),
            Some(page) if page.start() > self.filtered => {
                return Step::Instead(page.out_of_range(self.filtered));
            }
            Some(page) if page.start() > runs.len() => {
                let reason = "this page is too far to be sorted: filter by name";
                return Step::Instead(Reply::bad_request(reason));
            }
            Some(page) => (page.start(), page.size),
        };
        self.stage = Stage::Render { runs, skip, left };
        Step::More
    }

    fn render(&mut self, admin: &dyn Admin, node: &str, body: &mut Vec<u8>) -> Step {
        let (mut items, source, filter, _, stage) = self.parts(node, body);
        let Stage::Render { runs, skip, left } = stage else {
            return Step::More;
        };
        for _ in 0..WALK_ROWS.min(*skip) {
            runs.pop();
            *skip -= 1;
        }
        if *skip > 0 {
            return Step::More;
        }
        let users = admin.users();
        for _ in 0..RENDER_ROWS {
            let next = if *left > 0 { runs.pop() } else { None };
            let Some((_, cursor)) = next else {
                self.finish(body);
                return Step::Done;
            };
            *left -= 1;
            source.walk(admin, filter.scope(), cursor, 1, &mut |at, item| {
                if at == cursor && filter.admits(&item, users) {
                    items.put(&item);
                }
            });
        }
        Step::More
    }

    fn stream(&mut self, admin: &dyn Admin, node: &str, body: &mut Vec<u8>) -> Step {
        let (page, single) = (self.page, self.single);
        let (start, end) = match page {
            Some(page) => (page.start(), page.start() + page.size),
            None => (0, usize::MAX),
        };
        // What only has to be counted goes faster than what has to be rendered.
        let is_rendering = self.filtered + WALK_ROWS > start && self.filtered < end;
        let rows_max = if is_rendering && !single {
            RENDER_ROWS
        } else {
            WALK_ROWS
        };
        let (mut items, source, filter, counts, stage) = self.parts(node, body);
        let Stage::Stream { from } = stage else {
            return Step::More;
        };
        let users = admin.users();
        let next = source.walk(admin, filter.scope(), *from, rows_max, &mut |_, item| {
            if !filter.admits(&item, users) || single && *items.rendered > 0 {
                return;
            }
            *counts.total += 1;
            if name_admits(counts.name, &item) {
                if (start..end).contains(counts.filtered) {
                    items.put(&item);
                }
                *counts.filtered += 1;
            }
        });
        if let Some(next) = next {
            *from = next;
        }
        let is_complete = next.is_none() || single && self.rendered > 0;
        match page {
            _ if !is_complete => Step::More,
            _ if single && self.rendered == 0 => Step::Instead(Reply::not_found()),
            Some(page) if page.start() > self.filtered => {
                Step::Instead(page.out_of_range(self.filtered))
            }
            _ => {
                self.finish(body);
                Step::Done
            }
        }
    }

    /// What a step works with: where items go, what is walked, what is wanted of it, the counts,
    /// and how far it is.
    fn parts<'a>(
        &'a mut self,
        node: &'a str,
        body: &'a mut Vec<u8>,
    ) -> (Items<'a>, Source, &'a Filter, Counts<'a>, &'a mut Stage) {
        let is_page = self.page.is_some();
        let items = Items {
            target: if is_page { &mut self.items } else { body },
            opening: if is_page || self.single { "" } else { "[" },
            rendered: &mut self.rendered,
            columns: &self.columns,
            fields: self.fields,
            node,
        };
        let counts = Counts {
            name: self.name.as_ref(),
            total: &mut self.total,
            filtered: &mut self.filtered,
        };
        (items, self.source, &self.filter, counts, &mut self.stage)
    }

    fn finish(&mut self, body: &mut Vec<u8>) {
        if self.single {
            return;
        }
        let Some(page) = self.page else {
            body.extend_from_slice(if self.rendered == 0 { b"[]" } else { b"]" });
            return;
        };
        let Page { number, size } = page;
        let counts = format!(
            "{{\"filtered_count\":{},\"item_count\":{},\"page\":{number},\"page_count\":{},\
             \"page_size\":{size},\"total_count\":{},\"items\":[",
            self.filtered,
            self.rendered,
            self.filtered.div_ceil(size),
            self.total,
        );
        body.extend_from_slice(counts.as_bytes());
        body.append(&mut self.items);
        body.extend_from_slice(b"]}");
    }
}

/// Where items are rendered to: the body, or aside when they are part of a page.
struct Items<'a> {
    target: &'a mut Vec<u8>,
    /// What the first item is preceded by.
    opening: &'static str,
    rendered: &'a mut usize,
    columns: &'a [Vec<String>],
    fields: QueueFields,
    node: &'a str,
}

impl Items<'_> {
    fn put(&mut self, item: &Item<'_>) {
        let before = if *self.rendered == 0 {
            self.opening
        } else {
            ","
        };
        self.target.extend_from_slice(before.as_bytes());
        *self.rendered += 1;
        let mut writer = Writer::new(self.target, self.columns);
        item.write(&mut writer, self.node, self.fields);
        writer.end();
    }
}

/// What a walk counts.
struct Counts<'a> {
    name: Option<&'a Regex>,
    total: &'a mut usize,
    filtered: &'a mut usize,
}

fn name_filter(head: &Head) -> Result<Option<Regex>, Reply> {
    let Some(name) = head.query("name").filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    let expression = if head.has_flag("use_regex") {
        name.to_owned()
    } else {
        regex::escape(name)
    };
    RegexBuilder::new(&expression)
        .case_insensitive(true)
        .size_limit(REGEX_OCTETS_MAX)
        .dfa_size_limit(REGEX_OCTETS_MAX)
        .nest_limit(64)
        .build()
        .map(Some)
        .map_err(|_| Reply::bad_request(format!("invalid regular expression '{name}'")))
}

fn name_admits(filter: Option<&Regex>, item: &Item<'_>) -> bool {
    match (filter, item.name()) {
        (Some(regex), Some(name)) => regex.is_match(name),
        _ => true,
    }
}
