//! Minimal cuts: which of two sides each of many nodes takes, where it costs to separate some of them.

use std::collections::VecDeque;

/// A network with capacities between its nodes.
pub(crate) struct Network {
    /// Edges leaving each node.
    leaving: Vec<Vec<usize>>,
    /// Where each edge leads and what it can carry; an edge and its reverse are neighbours.
    edges: Vec<(usize, u64)>,
}

/// A capacity that no cut reaches.
pub(crate) const UNBOUNDED: u64 = u64::MAX / 4;

impl Network {
    pub fn new(nodes: usize) -> Self {
        Self { leaving: vec![Vec::new(); nodes], edges: Vec::new() }
    }

    pub fn add_node(&mut self) -> usize {
        self.leaving.push(Vec::new());
        self.leaving.len() - 1
    }

    /// It costs `capacity` to have `from` on the side of the source and `to` on that of the sink.
    pub fn connect(&mut self, from: usize, to: usize, capacity: u64) {
        self.leaving[from].push(self.edges.len());
        self.edges.push((to, capacity));
        self.leaving[to].push(self.edges.len());
        self.edges.push((from, 0));
    }

    /// Which nodes lie on the side of the source in the minimal cut that leaves most on the other side: by Dinic's
    /// algorithm.
    pub fn source_side(mut self, source: usize, sink: usize) -> Vec<bool> {
        loop {
            let levels = self.levels(source);
            if levels[sink].is_none() {
                return levels.into_iter().map(|level| level.is_some()).collect();
            }
            self.saturate(source, sink, &levels);
        }
    }

    /// Distances from the source by edges that can carry more.
    fn levels(&self, source: usize) -> Vec<Option<u32>> {
        let mut levels = vec![None; self.leaving.len()];
        levels[source] = Some(0);
        let mut queue = VecDeque::from([(source, 0)]);
        while let Some((node, level)) = queue.pop_front() {
            for &edge in &self.leaving[node] {
                let (to, capacity) = self.edges[edge];
                if capacity > 0 && levels[to].is_none() {
                    levels[to] = Some(level + 1);
                    queue.push_back((to, level + 1));
                }
            }
        }
        levels
    }

    /// Sends flow along the shortest paths until each of them is full.
    fn saturate(&mut self, source: usize, sink: usize, levels: &[Option<u32>]) {
        // Edges of each node that need not be looked at again.
        let mut done = vec![0; self.leaving.len()];
        let mut path: Vec<usize> = Vec::new();
        let mut node = source;
        loop {
            if node == sink {
                let flow = path.iter().map(|&edge| self.edges[edge].1).min().unwrap_or(0);
                for &edge in &path {
                    self.edges[edge].1 -= flow;
                    self.edges[edge ^ 1].1 += flow;
                }
                path.clear();
                node = source;
                continue;
            }
            let next = self.leaving[node].get(done[node]).copied();
            match next {
                Some(edge) => {
                    let (to, capacity) = self.edges[edge];
                    if capacity > 0
                        && levels[to].is_some()
                        && levels[to] == levels[node].map(|level| level + 1)
                    {
                        path.push(edge);
                        node = to;
                    } else {
                        done[node] += 1;
                    }
                }
                None => match path.pop() {
                    Some(edge) => {
                        node = self.edges[edge ^ 1].0;
                        done[node] += 1;
                    }
                    None => return,
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Network, UNBOUNDED};

    #[test]
    fn the_cheapest_edges_are_cut() {
        // source 0, sink 1; a chain 2 - 3 - 4 between them and a way around.
        let mut network = Network::new(5);
        for (from, to, capacity) in [(0, 2, UNBOUNDED), (2, 3, 5), (3, 4, 2), (4, 1, 7), (2, 4, 1)] {
            network.connect(from, to, capacity);
        }
        assert_eq!(network.source_side(0, 1), [true, false, true, true, false]);
    }

    #[test]
    fn of_equal_cuts_the_nearest_to_the_source_counts() {
        let mut network = Network::new(4);
        for (from, to) in [(0, 2), (2, 3), (3, 1)] {
            network.connect(from, to, 3);
        }
        assert_eq!(network.source_side(0, 1), [true, false, false, false]);
    }
}
