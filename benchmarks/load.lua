-- wrk -s load.lua URL -- BODY_FILE CONTENT_TYPE [EXPECTED_FILE]
-- With EXPECTED_FILE each answer is compared with it. Prints one line of JSON.
local expected
local threads = {}

local function read(name)
  local file = assert(io.open(name, "rb"))
  local text = file:read("*a")
  file:close()
  return text
end

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  wrong = 0
  wrk.method = "POST"
  wrk.body = read(args[1])
  wrk.headers["content-type"] = args[2]
  if args[3] then
    expected = read(args[3])
    response = function(status, headers, body)
      if status == 200 and body ~= expected then
        wrong = wrong + 1
      end
    end
  end
end

function done(summary, latency, requests)
  local wrong = 0
  for _, thread in ipairs(threads) do
    wrong = wrong + thread:get("wrong")
  end
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "seconds": %f, "bytes": %d, "not_ok": %d, "broken": %d, "wrong": %d, ' ..
    '"p50": %f, "p99": %f, "worst": %f}\n',
    summary.requests, summary.duration / 1e6, summary.bytes, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout, wrong,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3))
end
