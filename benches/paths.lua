-- Asks for random paths of a file, one a line. wrk -s paths.lua URL -- FILE
local paths = {}
local seeds = 0

function setup(thread)
  seeds = seeds + 1
  thread:set("seed", seeds)
end

function init(args)
  for path in io.lines(args[1]) do
    paths[#paths + 1] = path
  end
  math.randomseed(seed)
end

function request()
  return wrk.format("GET", paths[math.random(#paths)])
end

function done(summary, latency)
  local wrong = summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.timeout
  print(string.format("measured %.0f %.2f %d", 1e6 * summary.requests / summary.duration, latency:percentile(99) / 1000, wrong))
end
