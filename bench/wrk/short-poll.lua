-- Asks for news and is answered at once: 204, as nobody publishes.
--
--   wrk --threads 1 --connections 64 --duration 10s --script bench/wrk/short-poll.lua http://127.0.0.1:8080

function init()
  poll = wrk.format("GET", "/poll/wrk?since=now")
end

function request()
  return poll
end
