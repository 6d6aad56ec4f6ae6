-- Waits for messages and asks again from the cursor of the last answer. Somebody has to publish meanwhile:
--
--   wrk --threads 1 --connections 1 --duration 12s --script bench/wrk/publish.lua http://127.0.0.1:8080 &
--   wrk --threads 1 --connections 64 --duration 10s --script bench/wrk/long-poll.lua http://127.0.0.1:8080
--
-- wrk's scripts do not know which connection they speak for: all of a thread go on from the same cursor, so messages
-- are neither counted nor checked here. pushring-bench does both.

local cursor = "now"
answered, empty = 0, 0
local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function request()
  return wrk.format("GET", "/poll/wrk?wait=5&since=" .. cursor)
end

function response(status, headers)
  cursor = headers["Pushring-Cursor"] or cursor
  if status == 204 then
    empty = empty + 1
  else
    answered = answered + 1
  end
end

function done()
  local with_messages, at_wait = 0, 0
  for _, thread in ipairs(threads) do
    with_messages = with_messages + thread:get("answered")
    at_wait = at_wait + thread:get("empty")
  end
  print(string.format("polls answered with messages: %d, at the end of their wait: %d", with_messages, at_wait))
end
