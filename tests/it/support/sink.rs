//! A real HTTP receiver, by path: answers, hangs, resets, redirects, or floods.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};

/// Treatment of the requests for a path.
#[derive(Clone)]
pub enum Behaviour {
    /// Answers with a status, headers (`"Name: value\r\n"` each) and a body.
    Answer(u16, &'static str, &'static str),
    /// Reads the request and never answers.
    Hang,
    /// Reads the request and resets the connection.
    Reset,
    /// Answers 200 and ten million bytes.
    Flood,
    /// Reads the request, and answers 204 once the semaphore permits it.
    Gate(Arc<Semaphore>),
}

/// A request as received.
#[derive(Clone, Debug)]
pub struct Received {
    pub path: String,
    /// Headers; names are in lower case.
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Received {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

#[derive(Default)]
struct State {
    behaviours: Mutex<HashMap<String, Behaviour>>,
    received: Mutex<Vec<Received>>,
    /// By path: requests that are not answered yet, and their highest number so far.
    in_flight: Mutex<HashMap<String, (usize, usize)>>,
    flooded: Mutex<usize>,
    news: Notify,
}

/// Receiver that listens until it is dropped. Every path answers 204 unless set otherwise.
pub struct Sink {
    pub address: SocketAddr,
    state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

impl Sink {
    pub async fn start() -> Sink {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let task = tokio::spawn({
            let state = state.clone();
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let state = state.clone();
                    tokio::spawn(async move {
                        let _ = serve(stream, &state).await;
                    });
                }
            }
        });
        Sink { address, state, task }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn on(&self, path: &str, behaviour: Behaviour) {
        self.state.behaviours.lock().unwrap().insert(path.to_owned(), behaviour);
    }

    /// Requests received for a path, in order.
    pub fn received(&self, path: &str) -> Vec<Received> {
        self.state.received.lock().unwrap().iter().filter(|one| one.path == path).cloned().collect()
    }

    /// Maximum number of requests for a path that were in flight at once.
    pub fn most_in_flight(&self, path: &str) -> usize {
        self.state.in_flight.lock().unwrap().get(path).map_or(0, |(_, most)| *most)
    }

    /// Bytes of floods that the other side has accepted.
    pub fn flooded(&self) -> usize {
        *self.state.flooded.lock().unwrap()
    }

    /// Waits until `count` requests for a path have arrived.
    pub async fn wait_for(&self, path: &str, count: usize) -> Vec<Received> {
        let waiting = async {
            loop {
                let news = self.state.news.notified();
                tokio::pin!(news);
                news.as_mut().enable();
                let received = self.received(path);
                if received.len() >= count {
                    return received;
                }
                news.await;
            }
        };
        match tokio::time::timeout(Duration::from_secs(20), waiting).await {
            Ok(received) => received,
            Err(_) => panic!("{} of {count} requests came for {path}", self.received(path).len()),
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, state: &State) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read_request(&mut stream).await? {
        let path = request.path.clone();
        let behaviour = state.behaviours.lock().unwrap().get(&path).cloned();
        {
            let mut in_flight = state.in_flight.lock().unwrap();
            let (now, most) = in_flight.entry(path.clone()).or_default();
            *now += 1;
            *most = (*most).max(*now);
        }
        state.received.lock().unwrap().push(request);
        state.news.notify_waiters();
        let stays_open = answer(&mut stream, behaviour, &path, state).await;
        if !stays_open? {
            break;
        }
    }
    Ok(())
}

fn answered(state: &State, path: &str) {
    state.in_flight.lock().unwrap().entry(path.to_owned()).or_default().0 -= 1;
}

/// Answers one request; returns whether the connection stays open.
async fn answer(
    stream: &mut BufReader<TcpStream>,
    behaviour: Option<Behaviour>,
    path: &str,
    state: &State,
) -> std::io::Result<bool> {
    let (status, headers, body) = match behaviour {
        None => (204, "", ""),
        Some(Behaviour::Answer(status, headers, body)) => (status, headers, body),
        Some(Behaviour::Gate(gate)) => {
            gate.acquire().await.unwrap().forget();
            (204, "", "")
        }
        Some(Behaviour::Hang) => {
            // Until the client closes the connection.
            let _ = stream.read_u8().await;
            answered(state, path);
            return Ok(false);
        }
        Some(Behaviour::Reset) => {
            answered(state, path);
            // Closing with nothing sent and a linger of zero is a reset.
            stream.get_ref().set_zero_linger()?;
            return Ok(false);
        }
        Some(Behaviour::Flood) => {
            answered(state, path);
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n").await?;
            let piece = [b'x'; 10_000];
            for _ in 0..1_000 {
                stream.write_all(&piece).await?;
                *state.flooded.lock().unwrap() += piece.len();
            }
            return Ok(true);
        }
    };
    answered(state, path);
    let length = match status {
        204 => String::new(),
        _ => format!("Content-Length: {}\r\n", body.len()),
    };
    let answer = format!("HTTP/1.1 {status} Status\r\n{headers}{length}\r\n{body}");
    stream.write_all(answer.as_bytes()).await?;
    Ok(true)
}

async fn read_request(stream: &mut BufReader<TcpStream>) -> std::io::Result<Option<Received>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    // A query makes the URL of another channel, but not another path of the sink.
    let target = line.split(' ').nth(1).unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default().to_owned();
    let mut headers = HashMap::new();
    loop {
        line.clear();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Some(Received { path, headers, body }))
}
